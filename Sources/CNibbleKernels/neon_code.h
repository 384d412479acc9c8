// The code of a scaled element with NEON, for the encoder and the search for scales.

#ifndef NIBBLE_NEON_CODE_H
#define NIBBLE_NEON_CODE_H

#include <arm_neon.h>

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  uint8x16x4_t thresholds, values;  ///< 16 floats each
  float32x4_t linear, quadratic, magic, one, negative_below;
  uint32x4_t bump;
} neon_tables;

NIBBLE_INLINE uint8x16x4_t neon_table64(const uint32_t *low, const uint32_t *high) {
  uint8x16x4_t t;
  t.val[0] = vreinterpretq_u8_u32(vld1q_u32(low));
  t.val[1] = vreinterpretq_u8_u32(vld1q_u32(low + 4));
  t.val[2] = vreinterpretq_u8_u32(vld1q_u32(high));
  t.val[3] = vreinterpretq_u8_u32(vld1q_u32(high + 4));
  return t;
}

NIBBLE_INLINE neon_tables neon_make_tables(int nf4, int cpu_ties) {
  neon_tables t;
  const uint32_t *fp4 = cpu_ties ? nibble_fp4_cpu_thresholds : nibble_fp4_cuda_thresholds;
  t.thresholds = nf4 ? neon_table64(nibble_nf4_thresholds, nibble_nf4_thresholds + 8) : neon_table64(fp4, fp4);
  t.values = nf4 ? neon_table64(nibble_nf4_values, nibble_nf4_values + 8)
                 : neon_table64(nibble_fp4_values, nibble_fp4_values + 8);
  t.linear = vdupq_n_f32(nf4 ? NIBBLE_NF4_LINEAR : NIBBLE_FP4_LINEAR);
  t.quadratic = vdupq_n_f32(nf4 ? NIBBLE_NF4_QUADRATIC : NIBBLE_FP4_QUADRATIC);
  t.magic = vdupq_n_f32(nf4 ? NIBBLE_NF4_MAGIC : NIBBLE_FP4_MAGIC);
  t.one = vdupq_n_f32(1.0f);
  t.negative_below = vdupq_n_f32(nibble_float((uint32_t)cpu_ties));
  t.bump = vdupq_n_u32((uint32_t)cpu_ties);
  return t;
}

/// The floats at k of a table: a byte shuffle with the indices of each float's four bytes.
NIBBLE_INLINE float32x4_t neon_lookup(uint8x16x4_t table, uint32x4_t k) {
  uint32x4_t index = vmlaq_u32(vdupq_n_u32(0x03020100u), k, vdupq_n_u32(0x04040404u));
  return vreinterpretq_f32_u8(vqtbl4q_u8(table, vreinterpretq_u8_u32(index)));
}

/// NF4 codes or FP4 positions of four scaled elements, and their values.
NIBBLE_INLINE uint32x4_t neon_codes(const neon_tables *t, int nf4, int clamp, float32x4_t s, float32x4_t *q) {
  float32x4_t a = vabsq_f32(s);
  float32x4_t within = clamp ? vminq_f32(a, t->one) : a;
  float32x4_t slope = vfmsq_f32(t->linear, within, t->quadratic);
  if (nf4) {
    float32x4_t position = clamp ? vmaxq_f32(vminq_f32(s, t->one), vnegq_f32(t->one)) : s;
    uint32x4_t k = vreinterpretq_u32_f32(vfmaq_f32(t->magic, position, slope));
    k = vandq_u32(k, vdupq_n_u32(15));
    k = vsubq_u32(k, vcgtq_f32(s, neon_lookup(t->thresholds, k)));
    *q = neon_lookup(t->values, k);
    return k;
  }
  uint32x4_t k = vandq_u32(vreinterpretq_u32_f32(vfmaq_f32(t->magic, within, slope)), vdupq_n_u32(7));
  uint32x4_t negative = vcltq_f32(s, t->negative_below);
  // `cpu` sends a tie below zero away from it: one float further it is no tie any more.
  a = vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vandq_u32(negative, t->bump)));
  k = vsubq_u32(k, vcgtq_f32(a, neon_lookup(t->thresholds, k)));
  k = vorrq_u32(k, vandq_u32(negative, vdupq_n_u32(8)));
  *q = neon_lookup(t->values, k);
  return k;
}

#endif
