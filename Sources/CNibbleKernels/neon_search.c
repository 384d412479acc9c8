// The search for scales with NEON: four elements of four scales a step.

#if defined(__aarch64__)

#include "neon.h"
#include "neon_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  int8x16_t thresholds, values;
} level_table;

NIBBLE_INLINE level_table load_table(const nibble_level_table *t) {
  return (level_table){vld1q_s8(t->thresholds), vld1q_s8(t->values)};
}

NIBBLE_INLINE uint8x16_t value_of(level_table t, int8x16_t level, uint8x16_t place) {
  uint8x16_t above = vcgtq_s8(level, vqtbl1q_s8(t.thresholds, place));
  return vreinterpretq_u8_s8(vqtbl1q_s8(t.values, vandq_u8(vsubq_u8(place, above), vdupq_n_u8(15))));
}

/// Σyq and Σqq of four scales.
typedef struct {
  uint32x4_t yq, qq;
} rough_sums;

NIBBLE_INLINE uint32x4_t dot(uint32x4_t sum, uint8x16_t a, uint8x16_t b) {
  return vpadalq_u16(sum, vpaddq_u16(vmull_u8(vget_low_u8(a), vget_low_u8(b)), vmull_high_u8(a, b)));
}

NIBBLE_INLINE void add(rough_sums *sums, uint8x16_t magnitudes, uint8x16_t q) {
  sums->yq = dot(sums->yq, q, magnitudes);
  sums->qq = dot(sums->qq, q, q);
}

NIBBLE_INLINE int8x16_t four(const int8_t *bytes) {
  uint32_t v;
  memcpy(&v, bytes, 4);
  return vreinterpretq_s8_u32(vdupq_n_u32(v));
}

/// The sums of four scales from `first`, and those of their opposites.
NIBBLE_INLINE void sums_of(int nf4, int both_signs, const nibble_byte_block *bytes, size_t block, int first,
                           rough_sums *plus, rough_sums *minus) {
  const level_table positive = load_table(nf4 ? &nibble_nf4_positive_levels : &nibble_fp4_levels);
  const level_table negative = load_table(&nibble_nf4_negative_levels);
  const uint8x16_t lanes = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
  const int8x16_t offset = vqtbl1q_s8(vld1q_s8(nibble_search_offsets), vaddq_u8(lanes, vdupq_n_u8((uint8_t)first)));
  rough_sums p = {vdupq_n_u32(0), vdupq_n_u32(0)}, m = p;
  for (size_t i = 0; i < block; i += 4) {
    int8x16_t level = vqsubq_s8(four(bytes->levels + i), offset), elements = four(bytes->elements + i);
    uint8x16_t place = vshrq_n_u8(vreinterpretq_u8_s8(level), 4);
    uint8x16_t magnitudes = vreinterpretq_u8_s8(vabsq_s8(elements)), q = value_of(positive, level, place);
    if (!nf4) {
      add(&p, magnitudes, q);
      continue;
    }
    uint8x16_t other = value_of(negative, level, place), below = vcltzq_s8(elements);
    add(&p, magnitudes, vbslq_u8(below, other, q));
    if (both_signs) add(&m, magnitudes, vbslq_u8(below, q, other));
  }
  *plus = p;
  *minus = m;
}

NIBBLE_INLINE float rough_step(const rough_sums sums[4]) {
  int32_t yq[nibble_scales], qq[nibble_scales];
  for (int i = 0; i < 4; i++) {
    vst1q_s32(yq + 4 * i, vreinterpretq_s32_u32(sums[i].yq));
    vst1q_s32(qq + 4 * i, vreinterpretq_s32_u32(sums[i].qq));
  }
  return nibble_rough_step(yq, qq);
}

/// The sum of 16 lanes, in the order of search.h.
NIBBLE_INLINE float sum16(const float32x4_t s[4]) {
  float32x4_t four = vaddq_f32(vaddq_f32(s[0], s[2]), vaddq_f32(s[1], s[3]));
  float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/// Tries the codes under a step.
NIBBLE_INLINE void try_step(const neon_tables *t, int nf4, float step, const float *y, size_t block, nibble_best *best) {
  const float32x4_t zero = vdupq_n_f32(0), steps = vdupq_n_f32(step);
  float32x4_t yq[4] = {zero, zero, zero, zero}, qq[4] = {zero, zero, zero, zero};
  for (size_t i = 0; i < block; i += 16) {
#pragma clang loop unroll(full)
    for (int h = 0; h < 4; h++) {
      float32x4_t q, v = vld1q_f32(y + i + 4 * h);
      neon_codes(t, nf4, 1, vmulq_f32(v, steps), &q);
      float32x4_t product = vmulq_f32(v, q), square = vmulq_f32(q, q);
      yq[h] = vaddq_f32(yq[h], product);
      qq[h] = vaddq_f32(qq[h], square);
    }
  }
  nibble_keep_best(best, sum16(yq), sum16(qq));
}

NIBBLE_INLINE void search_blocks(int nf4, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  const neon_tables t = neon_make_tables(nf4, 0);
  for (size_t b = 0; b < blocks; b++, y += block) {
    nibble_byte_block bytes;
    nibble_fill_bytes(&bytes, y, block);
    rough_sums plus[4], minus[4];
    for (int i = 0; i < 4; i++) sums_of(nf4, both_signs, &bytes, block, 4 * i, plus + i, minus + i);
    nibble_best best = {-1, 0};
    try_step(&t, nf4, 1, y, block, &best);
    try_step(&t, nf4, rough_step(plus), y, block, &best);
    if (both_signs) try_step(&t, nf4, -rough_step(minus), y, block, &best);
    scales[b] = best.scale;
  }
}

void nibble_search_neon(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  if (code == nibble_nf4 && both_signs) search_blocks(1, 1, y, blocks, block, scales);
  else if (code == nibble_nf4) search_blocks(1, 0, y, blocks, block, scales);
  else search_blocks(0, 0, y, blocks, block, scales);
}

#endif
