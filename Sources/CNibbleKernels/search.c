// The scales with the least squared error: which blocks are searched, and the portable search.

#include "portable.h"
#include "portable_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

enum { group_elements = 4096, group_blocks = group_elements / 32 };

NIBBLE_INLINE float search_block(const nibble_tables *t, int nf4, int n, const float *y, size_t block) {
  nibble_search_sums sums = {0};
  for (size_t i = 0; i < block; i++) {
    float *yq = sums.yq[i & 1], *qq = sums.qq[i & 1];
    for (int k = 0; k < n; k++) {
      float s = y[i] * nibble_search_steps[k % nibble_scales];
      float q = t->values[nibble_position(t, nf4, k < nibble_scales ? s : -s)];
      yq[k] += y[i] * q;
      qq[k] += q * q;
    }
  }
  return nibble_best_scale(&sums, n);
}

void nibble_search_portable(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  nibble_tables t = nibble_make_tables(code == nibble_nf4, 0);
  for (size_t b = 0; b < blocks; b++, y += block)
    scales[b] = code == nibble_nf4 ? search_block(&t, 1, both_signs ? 2 * nibble_scales : nibble_scales, y, block)
                                   : search_block(&t, 0, nibble_scales, y, block);
}

/// Outside this range a scale or its reciprocal may not be a normal number; such blocks keep their absmax.
static int is_searched(uint32_t max) { return max >= 0x01000000u && max <= 0x7e000000u; }

/// The absmax of `n` elements that are not searched, and what they are.
static float plain_absmax(const float *x, size_t n, nibble_encode_counts *counts) {
  uint32_t max = 0, nonfinite = 0, nans = 0;
  for (size_t i = 0; i < n; i++) {
    uint32_t a = nibble_bits(x[i]) & 0x7fffffffu;
    nonfinite += a >= NIBBLE_INFINITY_BITS;
    nans += a > NIBBLE_INFINITY_BITS;
    max = a > max && a <= NIBBLE_INFINITY_BITS ? a : max;
  }
  counts->nonfinite += nonfinite;
  counts->zero_blocks += max == 0 && nans == 0;
  return nibble_float(nans == n ? 0x7fc00000u : max);
}

/// `blocks` blocks of `padded` elements, of which the first `block` count. x is overwritten.
static void search_group(const nibble_kernels *kernels, nibble_code code, int both_signs, float *x, size_t blocks, size_t block,
                         size_t padded, float *scales, nibble_encode_counts *counts) {
  uint32_t bits[group_blocks];
  float best[group_blocks];
  kernels->max_bits(nibble_f32, x, blocks, padded, bits);
  for (size_t b = 0; b < blocks; b++) {
    float *y = x + b * padded;
    if (is_searched(bits[b])) {
      float inverse = 1.0f / nibble_float(bits[b]);
      for (size_t i = 0; i < padded; i++) y[i] *= inverse;
    } else {
      nibble_store_f32(scales, b, plain_absmax(y, block, counts));
      memset(y, 0, padded * sizeof *y);
    }
  }
  // FP4 is the same on both sides: opposites change nothing.
  kernels->search(code, both_signs && code == nibble_nf4, x, blocks, padded, best);
  for (size_t b = 0; b < blocks; b++)
    if (is_searched(bits[b])) nibble_store_f32(scales, b, nibble_float(bits[b]) * best[b]);
}

void nibble_search_scales(nibble_variant variant, nibble_code code, int both_signs, nibble_number number, const void *x,
                          size_t count, size_t block, float *scales, nibble_encode_counts *counts) {
  const nibble_kernels *kernels = nibble_kernels_of(variant);
  float values[group_elements];
  size_t group = block % 32 ? 1 : group_elements / block;
  for (size_t first = 0; first < count;) {
    size_t n = count - first < block ? count - first : block, blocks = (count - first) / block;
    // A short last block by itself, behind zeros that change no sum.
    blocks = blocks == 0 ? 1 : blocks < group ? blocks : group;
    size_t padded = (n + 31) / 32 * 32;
    kernels->widen(number, (const char *)x + first * nibble_number_size(number), blocks * n, values);
    memset(values + blocks * n, 0, (padded - n) * sizeof *values);
    search_group(kernels, code, both_signs, values, blocks, n, padded, scales, counts);
    first += blocks * n;
    scales += blocks;
  }
}
