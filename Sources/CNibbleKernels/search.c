// The search for a block's scale. Every sum has 16 lanes, added pairwise in halves at the end, without fused
// operations: vector variants do the very same, so the fastest one may run and the answer stays one.

#include "portable.h"
#include "portable_code.h"

#pragma STDC FP_CONTRACT OFF

enum { longest = 4096, candidates = 25 };

NIBBLE_INLINE float error_of(const nibble_tables *t, int nf4, const float *x, size_t count, float inverse) {
  float sums[16] = {0};
  for (size_t i = 0; i < count; i += 16) {
    for (size_t l = 0; l < 16; l++) {
      float s = x[i + l] * inverse;
      float e = s - t->values[nibble_position(t, nf4, s)];
      sums[l] += e * e;
    }
  }
  for (size_t half = 8; half > 0; half /= 2)
    for (size_t l = 0; l < half; l++) sums[l] += sums[l + half];
  return sums[0];
}

void nibble_scale_errors_portable(nibble_code code, const float *x, size_t count, const float *inverse,
                                  size_t n, float *errors) {
  nibble_tables t = nibble_make_tables(code == nibble_nf4, 0);
  for (size_t k = 0; k < n; k++)
    errors[k] = code == nibble_nf4 ? error_of(&t, 1, x, count, inverse[k]) : error_of(&t, 0, x, count, inverse[k]);
}

/// The best scale of a block of finite elements padded with zeros, whose error is none.
static float best_scale(const nibble_kernels *kernels, nibble_code code, const float *x, size_t count, float max) {
  float scale[candidates], inverse[candidates], errors[candidates];
  for (int k = 0; k < candidates; k++) {
    scale[k] = max * (1.0f - (float)k / 64.0f);
    inverse[k] = 1.0f / scale[k];
  }
  kernels->scale_errors(code, x, count, inverse, candidates, errors);
  int best = 0;
  float least = errors[0];
  for (int k = 1; k < candidates; k++) {
    // In units of absmax, so that it neither overflows nor vanishes.
    float r = 1.0f - (float)k / 64.0f, error = errors[k] * (r * r);
    if (error < least) {
      best = k;
      least = error;
    }
  }
  return scale[best];
}

void nibble_search_scales(nibble_code code, nibble_number number, const void *x, size_t count, size_t block,
                          float *scales, nibble_encode_counts *counts) {
  const nibble_kernels *kernels = nibble_kernels_of(nibble_variant_best());
  float values[longest + 16];
  for (size_t first = 0, b = 0; first < count; first += block, b++) {
    size_t n = count - first < block ? count - first : block;
    uint32_t max = 0, nonfinite = 0, nans = 0;
    for (size_t i = 0; i < n; i++) {
      values[i] = nibble_element(number, x, first + i);
      uint32_t a = nibble_bits(values[i]) & 0x7fffffffu;
      nonfinite += a >= NIBBLE_INFINITY_BITS;
      nans += a > NIBBLE_INFINITY_BITS;
      max = a > max && a <= NIBBLE_INFINITY_BITS ? a : max;
    }
    counts->nonfinite += nonfinite;
    counts->zero_blocks += max == 0 && nans == 0;
    nibble_store_f32(scales, b, nibble_float(nans == n ? 0x7fc00000u : max));
    // Outside this range a reciprocal is not a normal number; such blocks keep their absmax too.
    if (nonfinite || max < 0x01000000u || max > 0x7e800000u) continue;
    size_t padded = (n + 15) / 16 * 16;
    memset(values + n, 0, (padded - n) * sizeof(float));
    nibble_store_f32(scales, b, best_scale(kernels, code, values, padded, nibble_float(max)));
  }
}
