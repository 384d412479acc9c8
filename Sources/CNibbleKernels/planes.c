// Byte planes and transposes. Plain C: the compiler vectorises the inner loops well enough.

#include "internal.h"

enum { tile = 32 };

/// Tiles keep the rows read and the rows written in the first-level cache.
#define TRANSPOSE(type)                                                                       \
  static void transpose_##type(const char *x, size_t rows, size_t columns, size_t stride, char *out) { \
    for (size_t r0 = 0; r0 < rows; r0 += tile) {                                              \
      size_t r1 = rows - r0 < tile ? rows : r0 + tile;                                        \
      for (size_t c0 = 0; c0 < columns; c0 += tile) {                                         \
        size_t c1 = columns - c0 < tile ? columns : c0 + tile;                                \
        for (size_t c = c0; c < c1; c++)                                                      \
          for (size_t r = r0; r < r1; r++)                                                    \
            memcpy(out + (c * rows + r) * sizeof(type), x + (r * stride + c) * sizeof(type), sizeof(type)); \
      }                                                                                       \
    }                                                                                         \
  }
TRANSPOSE(uint16_t)
TRANSPOSE(uint32_t)
TRANSPOSE(uint64_t)

void nibble_transpose(size_t element, const void *x, size_t rows, size_t columns, size_t stride, void *out) {
  if (element == 2) transpose_uint16_t(x, rows, columns, stride, out);
  if (element == 4) transpose_uint32_t(x, rows, columns, stride, out);
  if (element == 8) transpose_uint64_t(x, rows, columns, stride, out);
}

void nibble_split_planes(size_t element, const uint8_t *restrict x, size_t count, uint8_t *restrict planes) {
  if (element == 2) {
    for (size_t i = 0; i < count; i++) {
      planes[i] = x[2 * i];
      planes[count + i] = x[2 * i + 1];
    }
    return;
  }
  uint8_t *p1 = planes + count, *p2 = p1 + count, *p3 = p2 + count;
  for (size_t i = 0; i < count; i++) {
    planes[i] = x[4 * i];
    p1[i] = x[4 * i + 1];
    p2[i] = x[4 * i + 2];
    p3[i] = x[4 * i + 3];
  }
}

void nibble_join_planes(size_t element, const uint8_t *restrict planes, size_t count, uint8_t *restrict x) {
  if (element == 2) {
    for (size_t i = 0; i < count; i++) {
      x[2 * i] = planes[i];
      x[2 * i + 1] = planes[count + i];
    }
    return;
  }
  const uint8_t *p1 = planes + count, *p2 = p1 + count, *p3 = p2 + count;
  for (size_t i = 0; i < count; i++) {
    x[4 * i] = planes[i];
    x[4 * i + 1] = p1[i];
    x[4 * i + 2] = p2[i];
    x[4 * i + 3] = p3[i];
  }
}
