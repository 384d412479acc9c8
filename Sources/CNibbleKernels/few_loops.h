// Products of few rows of x, written once. A variant includes this after products_loops.h's definitions (WIDTH, vec, VEC_LOAD,
// VEC_STORE, VEC_ADD, TURN, TARGET) and
//
//   VEC_FMA(w, x, c)       w * x + c
//   VEC_PART(p, n)         n < WIDTH floats at p, then zeros
//   VEC_FILL(f)            f in every lane
//   KERNELS                the variant's decoders
//   ROW(m, few, j, sums)   sums[i] = lanes that add up to the product of row j of W and row i of x
//
// x is packed row by row, as it is.

#include "products.h"

#ifndef TARGET_INLINE
#define TARGET_INLINE static inline __attribute__((always_inline)) TARGET
#endif

enum { few_deep = 8, few_wide = 512 };  ///< the piece of W that a transposed product decodes at once

typedef struct few_product few_product;

/// A product of few rows: its matrix, x, and memory for a decoded row and its scales.
struct few_product {
  const nibble_matrix *w;
  const float *x;
  size_t stride;
  float *row, *scales;
};

/// Floats from one packed row to the next: not a power of two, or all rows would compete for the same lines of the cache.
NIBBLE_INLINE size_t few_stride(size_t k) { return (k + 15) / 16 * 16 + 16; }

TARGET_INLINE void row_of_floats(const int m, const few_product *few, const float *w, vec *sums) {
  vec s[nibble_few][4];
  const int chains = m <= 2 ? 4 : 2;
  size_t k = few->w->columns, i = 0;
  const float *x = few->x;
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
    for (int c = 0; c < chains; c++) s[r][c] = (vec){0};
  for (; i + 4 * WIDTH <= k; i += 4 * WIDTH) {
    __builtin_prefetch(w + i + 1024);
#if WIDTH == 16
    __builtin_prefetch(w + i + 1040);
    __builtin_prefetch(w + i + 1056);
    __builtin_prefetch(w + i + 1072);
#endif
#pragma clang loop unroll(full)
    for (int c = 0; c < 4; c++) {
      vec v = VEC_LOAD(w + i + c * WIDTH);
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++)
        s[r][c % chains] = VEC_FMA(v, VEC_LOAD(x + (size_t)r * few->stride + i + (size_t)c * WIDTH), s[r][c % chains]);
    }
  }
  for (; i < k; i += WIDTH) {
    vec v = k - i < WIDTH ? VEC_PART(w + i, k - i) : VEC_LOAD(w + i);
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++) s[r][0] = VEC_FMA(v, VEC_LOAD(x + (size_t)r * few->stride + i), s[r][0]);
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++) {
    sums[r] = VEC_ADD(s[r][0], s[r][1]);
    if (chains == 4) sums[r] = VEC_ADD(sums[r], VEC_ADD(s[r][2], s[r][3]));
  }
}

/// Row j where W has float32, or decoded on the way.
TARGET_INLINE void row_of_any(const int m, const few_product *few, size_t j, vec *sums) {
  const nibble_matrix *w = few->w;
  const float *row = (const float *)w->data + j * w->columns;
  if (w->packed || w->number != nibble_f32) {
    nibble_matrix_run(KERNELS, w, j * w->columns, w->columns, nibble_f32, few->row);
    row = few->row;
  }
  row_of_floats(m, few, row, sums);
}

TARGET_INLINE void few_loop(const int m, const few_product *few, size_t first, size_t count, int add, float *y, size_t stride) {
  vec sums[WIDTH][nibble_few], turned[WIDTH];
  for (size_t j = 0; j < count; j += WIDTH) {
    size_t n = count - j < WIDTH ? count - j : WIDTH;
    for (size_t l = 0; l < n; l++) ROW(m, few, first + j + l, sums[l]);
    for (int i = 0; i < m; i++) {
#pragma clang loop unroll(full)
      for (size_t l = 0; l < WIDTH; l++) turned[l] = l < n ? sums[l][i] : (vec){0};
      TURN(turned);
      vec sum = turned[0];
#pragma clang loop unroll(full)
      for (size_t l = 1; l < WIDTH; l++) sum = VEC_ADD(sum, turned[l]);
      float *out = y + (size_t)i * stride + first + j;
      if (n == WIDTH) {
        VEC_STORE(out, add ? VEC_ADD(VEC_LOAD(out), sum) : sum);
      } else {
        float part[WIDTH];
        VEC_STORE(part, sum);
        for (size_t l = 0; l < n; l++) out[l] = add ? out[l] + part[l] : part[l];
      }
    }
  }
}

#define FEW_CASES(call)                                                                                       \
  switch (m) {                                                                                                \
    case 1: call(1); break;                                                                                   \
    case 2: call(2); break;                                                                                   \
    case 3: call(3); break;                                                                                   \
    case 4: call(4); break;                                                                                   \
    case 5: call(5); break;                                                                                   \
    case 6: call(6); break;                                                                                   \
    case 7: call(7); break;                                                                                   \
    default: call(8); break;                                                                                  \
  }

/// A decoded row and the scales of its blocks; or sums of the outputs, and pieces of W.
TARGET static size_t few_scratch(const nibble_matrix *w, size_t m, size_t count) {
  size_t forward = few_stride(w->columns) + w->columns + 64, backward = m * few_stride(count) + few_deep * few_wide;
  return 4 * (forward > backward ? forward : backward);
}

/// out[0...n] += x[0] * w[0 * few_wide ...] + x[1] * ..., for `deep` rows of W.
TARGET_INLINE void add_rows(const int m, const float *x, size_t x_stride, const float *w, size_t deep, size_t n, float *out,
                            size_t out_stride) {
  for (size_t c = 0; c < n; c += 2 * WIDTH) {
    vec s[nibble_few][2];
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
      for (int v = 0; v < 2; v++) s[r][v] = VEC_LOAD(out + (size_t)r * out_stride + c + (size_t)v * WIDTH);
    for (size_t j = 0; j < deep; j++) {
      vec w0 = VEC_LOAD(w + j * few_wide + c), w1 = VEC_LOAD(w + j * few_wide + c + WIDTH);
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++) {
        vec factor = VEC_FILL(x[(size_t)r * x_stride + j]);
        s[r][0] = VEC_FMA(w0, factor, s[r][0]);
        s[r][1] = VEC_FMA(w1, factor, s[r][1]);
      }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
      for (int v = 0; v < 2; v++) VEC_STORE(out + (size_t)r * out_stride + c + (size_t)v * WIDTH, s[r][v]);
  }
}

TARGET static void few_transposed(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                                  float *dx, size_t stride, void *scratch) {
  const float *x = packed;
  size_t x_stride = few_stride(w->rows), padded = few_stride(count);
  float *piece = scratch, *sums = piece + few_deep * few_wide;
  memset(sums, 0, 4 * m * padded);
  for (size_t j = 0; j < w->rows; j += few_deep) {
    size_t deep = w->rows - j < few_deep ? w->rows - j : few_deep;
    for (size_t c = 0; c < count; c += few_wide) {
      size_t n = count - c < few_wide ? count - c : few_wide;
      for (size_t l = 0; l < deep; l++) FEW_DECODE(w, (j + l) * w->columns + first + c, n, piece + l * few_wide);
#define CALL(m) add_rows(m, x + j, x_stride, piece, deep, n, sums + c, padded)
      FEW_CASES(CALL)
#undef CALL
    }
  }
  for (size_t i = 0; i < m; i++) {
    float *out = dx + i * stride + first;
    const float *from = sums + i * padded;
    for (size_t c = 0; c < count; c++) out[c] = add ? out[c] + from[c] : from[c];
  }
}

TARGET static size_t few_packed_bytes(size_t m, size_t k) { return 4 * m * few_stride(k); }

TARGET static void few_pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  float *out = packed;
  for (size_t i = 0; i < m; i++, out += few_stride(k)) {
    memcpy(out, x + i * stride, 4 * k);
    memset(out + k, 0, 4 * (few_stride(k) - k));
  }
}

TARGET static void few_multiply(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                                float *y, size_t stride, void *scratch) {
  few_product few = {.w = w, .x = packed, .stride = few_stride(w->columns), .row = scratch};
  few.scales = few.row + few_stride(w->columns);
#define CALL(m) few_loop(m, &few, first, count, add, y, stride)
  FEW_CASES(CALL)
#undef CALL
}
