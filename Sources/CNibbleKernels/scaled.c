// Numbers of 4 and 8 bits with an exponent, and scales beside them, as checkpoints of other programs have them.

#include "internal.h"

#include <string.h>

#pragma STDC FP_CONTRACT OFF

static float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// E8M0: 2^(code - 127); 255 is NaN.
static float power_of(uint8_t code) {
  return of_bits(code == 255 ? 0x7FC00000u : code ? (uint32_t)code << 23 : 0x00400000u);
}

/// E4M3 without infinities: S.1111.111 is NaN.
static float e4m3(uint8_t code) {
  uint32_t sign = (uint32_t)(code & 0x80) << 24, magnitude = code & 0x7F;
  if (magnitude == 0x7F) return of_bits(0x7FC00000u);
  if (magnitude >= 8) return of_bits(sign | ((magnitude << 20) + (120u << 23)));
  float small = (float)magnitude * 0x1p-9f;
  return sign ? -small : small;
}

void nibble_powers_of_two(const uint8_t *codes, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) out[i] = power_of(codes[i]);
}

void nibble_mxfp4_decode(const uint8_t *codes, const uint8_t *scales, size_t element, size_t n, float *out) {
  static const float values[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  while (n) {
    size_t part = 32 - element % 32;
    part = part < n ? part : n;
    float scale = power_of(scales[element / 32]);
    for (size_t i = 0; i < part; i++) {
      uint8_t pair = codes[(element + i) / 2];
      out[i] = values[(element + i) % 2 ? pair >> 4 : pair & 15] * scale;
    }
    element += part, out += part, n -= part;
  }
}

void nibble_fp8_decode(const uint8_t *codes, nibble_fp8_tiles tiles, size_t element, size_t n, float *out) {
  while (n) {
    size_t row = element / tiles.columns, column = element % tiles.columns, across = (tiles.columns + tiles.width - 1) / tiles.width;
    size_t part = tiles.width - column % tiles.width;
    part = part < tiles.columns - column ? part : tiles.columns - column;
    part = part < n ? part : n;
    float scale = tiles.scales[row / tiles.height * across + column / tiles.width];
    for (size_t i = 0; i < part; i++) out[i] = e4m3(codes[element + i]) * scale;
    element += part, out += part, n -= part;
  }
}

/// Decodes `n` numbers from `element` on a few at a time, and rounds each once.
#define RUN(decode)                                                                                       \
  do {                                                                                                    \
    float few[256];                                                                                       \
    for (size_t done = 0; done < n;) {                                                                    \
      size_t part = n - done < 256 ? n - done : 256, first = element + done;                              \
      float *wide = few;                                                                                  \
      decode;                                                                                             \
      void *to = (char *)out + done * nibble_number_size(number);                                         \
      if (number == nibble_f32) memcpy(to, wide, 4 * part);                                               \
      else nibble_narrow(variant, number, wide, part, to);                                                \
      done += part;                                                                                       \
    }                                                                                                     \
  } while (0)

static void run_of_mxfp4(nibble_variant variant, const nibble_matrix *w, size_t element, size_t n, nibble_number number, void *out) {
  RUN(nibble_mxfp4_decode(w->data, w->scale_codes, first, part, wide));
}

static void run_of_fp8(nibble_variant variant, const nibble_matrix *w, size_t element, size_t n, nibble_number number, void *out) {
  nibble_fp8_tiles tiles = {.scales = w->scales, .columns = w->columns, .height = w->nested_block, .width = w->block};
  RUN(nibble_fp8_decode(w->data, tiles, first, part, wide));
}

const nibble_storage *nibble_mxfp4_storage(void) {
  static const nibble_storage storage = {.together = 2, .size = 1, .run = run_of_mxfp4};
  return &storage;
}

const nibble_storage *nibble_fp8_storage(void) {
  static const nibble_storage storage = {.together = 1, .size = 1, .run = run_of_fp8};
  return &storage;
}
