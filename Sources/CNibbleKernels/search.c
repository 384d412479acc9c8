// The scales with the least squared error: which blocks are searched, and the portable search.

#include "portable.h"
#include "portable_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

enum { group_elements = 4096, group_blocks = group_elements / 32 };

/// 119 times the magnitudes of the values for each level from -128 under each of 16 scales, for elements of the scale's own
/// sign and of the other.
typedef struct {
  uint8_t values[2][256][nibble_scales];
} level_rows;

static void fill_rows(const nibble_level_table *t, uint8_t rows[256][nibble_scales]) {
  for (int level = -128; level < 128; level++) {
    for (int k = 0; k < nibble_scales; k++) {
      int left = level - nibble_search_offsets[k] > -128 ? level - nibble_search_offsets[k] : -128, place = left >> 4 & 15;
      rows[level + 128][k] = (uint8_t)t->values[(place + (left > t->thresholds[place])) & 15];
    }
  }
}

/// Σyq and Σqq of 16 scales, in bytes.
typedef struct {
  int32_t yq[nibble_scales], qq[nibble_scales];
} rough_sums;

NIBBLE_INLINE void add(rough_sums *sums, const uint8_t q[nibble_scales], uint16_t magnitude) {
  for (int k = 0; k < nibble_scales; k++) {
    sums->yq[k] += (uint16_t)(q[k] * magnitude);
    sums->qq[k] += (uint16_t)(q[k] * q[k]);
  }
}

/// Tries the codes under a step.
NIBBLE_INLINE void try_step(const nibble_tables *t, int nf4, float step, const float *y, size_t block, nibble_best *best) {
  float yq[16] = {0}, qq[16] = {0};
  for (size_t i = 0; i < block; i++) {
    float q = t->values[nibble_position(t, nf4, y[i] * step)];
    yq[i % 16] += y[i] * q;
    qq[i % 16] += q * q;
  }
  for (int half = 8; half; half /= 2) {
    for (int l = 0; l < half; l++) {
      yq[l] += yq[l + half];
      qq[l] += qq[l + half];
    }
  }
  nibble_keep_best(best, yq[0], qq[0]);
}

NIBBLE_INLINE void search_blocks(int nf4, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  nibble_tables t = nibble_make_tables(nf4, 0);
  level_rows rows;
  fill_rows(nf4 ? &nibble_nf4_positive_levels : &nibble_fp4_levels, rows.values[0]);
  fill_rows(nf4 ? &nibble_nf4_negative_levels : &nibble_fp4_levels, rows.values[1]);
  for (size_t b = 0; b < blocks; b++, y += block) {
    nibble_byte_block bytes;
    nibble_fill_bytes(&bytes, y, block);
    rough_sums plus = {0}, minus = {0};
    for (size_t i = 0; i < block; i++) {
      int level = bytes.levels[i] + 128, element = bytes.elements[i], other = element < 0;
      uint16_t magnitude = (uint16_t)(other ? -element : element);
      add(&plus, rows.values[other][level], magnitude);
      if (both_signs) add(&minus, rows.values[!other][level], magnitude);
    }
    nibble_best best = {-1, 0};
    try_step(&t, nf4, 1, y, block, &best);
    try_step(&t, nf4, nibble_rough_step(plus.yq, plus.qq), y, block, &best);
    if (both_signs) try_step(&t, nf4, -nibble_rough_step(minus.yq, minus.qq), y, block, &best);
    scales[b] = best.scale;
  }
}

void nibble_search_portable(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  if (code == nibble_nf4 && both_signs) search_blocks(1, 1, y, blocks, block, scales);
  else if (code == nibble_nf4) search_blocks(1, 0, y, blocks, block, scales);
  else search_blocks(0, 0, y, blocks, block, scales);
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
