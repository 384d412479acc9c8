// The code of a scaled element with AVX2, for the encoder and the search for scales.

#ifndef NIBBLE_AVX2_CODE_H
#define NIBBLE_AVX2_CODE_H

#include "avx2.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  __m256 low_thresholds, high_thresholds, low_values, high_values;
  __m256 linear, quadratic, magic, one, sign, negative_below;
  __m256i bump;
} avx2_tables;

AVX2_INLINE avx2_tables avx2_make_tables(int nf4, int cpu_ties) {
  avx2_tables t;
  const uint32_t *thresholds =
      nf4 ? nibble_nf4_thresholds : cpu_ties ? nibble_fp4_cpu_thresholds : nibble_fp4_cuda_thresholds;
  const uint32_t *values = nf4 ? nibble_nf4_values : nibble_fp4_values;
  t.low_thresholds = _mm256_loadu_ps((const void *)thresholds);
  // Positive elements fall into buckets 7 to 14; a permute reads three bits, so 7 comes last.
  t.high_thresholds = nf4 ? _mm256_blend_ps(_mm256_loadu_ps((const void *)(thresholds + 8)), t.low_thresholds, 0x80)
                          : t.low_thresholds;
  t.low_values = _mm256_loadu_ps((const void *)values);
  t.high_values = _mm256_loadu_ps((const void *)(values + 8));
  t.linear = _mm256_set1_ps(nf4 ? NIBBLE_NF4_LINEAR : NIBBLE_FP4_LINEAR);
  t.quadratic = _mm256_set1_ps(nf4 ? NIBBLE_NF4_QUADRATIC : NIBBLE_FP4_QUADRATIC);
  t.magic = _mm256_set1_ps(nf4 ? NIBBLE_NF4_MAGIC : NIBBLE_FP4_MAGIC);
  t.one = _mm256_set1_ps(1.0f);
  t.sign = _mm256_set1_ps(-0.0f);
  t.negative_below = _mm256_set1_ps(nibble_float((uint32_t)cpu_ties));
  t.bump = _mm256_set1_epi32(cpu_ties);
  return t;
}

/// NF4 codes or FP4 positions of eight scaled elements in the low bytes of the lanes, and their values.
AVX2_INLINE __m256i avx2_codes(const avx2_tables *t, int nf4, int clamp, __m256 s, __m256 *q) {
  __m256 a = _mm256_andnot_ps(t->sign, s);
  if (nf4) {
    __m256 within = s;
    if (clamp) {
      within = _mm256_max_ps(_mm256_min_ps(s, t->one), _mm256_xor_ps(t->one, t->sign));
      a = _mm256_min_ps(a, t->one);
    }
    __m256 slope = _mm256_fnmadd_ps(a, t->quadratic, t->linear);
    __m256i k = _mm256_castps_si256(_mm256_fmadd_ps(within, slope, t->magic));
    __m256 low = _mm256_permutevar8x32_ps(t->low_thresholds, k);
    __m256 high = _mm256_permutevar8x32_ps(t->high_thresholds, k);
    __m256 above = _mm256_cmp_ps(s, _mm256_blendv_ps(high, low, s), _CMP_GT_OQ);
    k = _mm256_sub_epi32(k, _mm256_castps_si256(above));
    low = _mm256_permutevar8x32_ps(t->low_values, k);
    high = _mm256_permutevar8x32_ps(t->high_values, k);
    *q = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(k, 28)));
    return k;
  }
  __m256 within = clamp ? _mm256_min_ps(a, t->one) : a;
  __m256 slope = _mm256_fnmadd_ps(within, t->quadratic, t->linear);
  __m256i k = _mm256_castps_si256(_mm256_fmadd_ps(within, slope, t->magic));
  __m256 threshold = _mm256_permutevar8x32_ps(t->low_thresholds, k);
  __m256i negative = _mm256_castps_si256(_mm256_cmp_ps(s, t->negative_below, _CMP_LT_OQ));
  // `cpu` sends a tie below zero away from it: one float further it is no tie any more.
  __m256i bits = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_and_si256(negative, t->bump));
  __m256 above = _mm256_cmp_ps(_mm256_castsi256_ps(bits), threshold, _CMP_GT_OQ);
  k = _mm256_sub_epi32(k, _mm256_castps_si256(above));
  __m256 minus = _mm256_and_ps(_mm256_castsi256_ps(negative), t->sign);
  *q = _mm256_or_ps(_mm256_permutevar8x32_ps(t->low_values, k), minus);
  return _mm256_or_si256(k, _mm256_srli_epi32(_mm256_castps_si256(minus), 28));
}

#endif
