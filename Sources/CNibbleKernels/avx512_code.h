// The code of a scaled element with AVX-512, for the encoder and the search for scales.

#ifndef NIBBLE_AVX512_CODE_H
#define NIBBLE_AVX512_CODE_H

#include "avx512.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  __m512 thresholds, values;
  __m512i codes;
  __m512 linear, quadratic, magic, one, negative_below;
  __m512i bump, step;
} avx512_tables;

AVX512_INLINE avx512_tables avx512_make_tables(int nf4, int cpu_ties) {
  avx512_tables t;
  __m256i fp4 = _mm256_loadu_si256(
      (const void *)(cpu_ties ? nibble_fp4_cpu_thresholds : nibble_fp4_cuda_thresholds));
  const uint8_t *codes = cpu_ties ? nibble_fp4_cpu_codes : nibble_fp4_cuda_codes;
  t.thresholds = _mm512_castsi512_ps(nf4 ? _mm512_loadu_si512(nibble_nf4_thresholds)
                                         : _mm512_broadcast_i64x4(fp4));
  t.values = _mm512_castsi512_ps(_mm512_loadu_si512(nf4 ? nibble_nf4_values : nibble_fp4_values));
  t.codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
  t.linear = _mm512_set1_ps(nf4 ? NIBBLE_NF4_LINEAR : NIBBLE_FP4_LINEAR);
  t.quadratic = _mm512_set1_ps(nf4 ? NIBBLE_NF4_QUADRATIC : NIBBLE_FP4_QUADRATIC);
  t.magic = _mm512_set1_ps(nf4 ? NIBBLE_NF4_MAGIC : NIBBLE_FP4_MAGIC);
  t.one = _mm512_set1_ps(1.0f);
  t.negative_below = _mm512_set1_ps(nibble_float((uint32_t)cpu_ties));
  t.bump = _mm512_set1_epi32(cpu_ties);
  t.step = _mm512_set1_epi32(1);
  // Hidden from the compiler: it would turn the masked addition of a known 1 into two instructions.
  __asm__("" : "+v"(t.step));
  return t;
}

/// Codes of 16 scaled elements in the low bytes of the lanes (NF4 leaves other bits above), and their values.
AVX512_INLINE __m512i avx512_codes(const avx512_tables *t, int nf4, int clamp, __m512 s, __m512 *q) {
  __m512 a = _mm512_abs_ps(s);
  if (nf4) {
    __m512 within = s;
    if (clamp) {
      within = _mm512_max_ps(_mm512_min_ps(s, t->one), _mm512_sub_ps(_mm512_setzero_ps(), t->one));
      a = _mm512_min_ps(a, t->one);
    }
    __m512 slope = _mm512_fnmadd_ps(a, t->quadratic, t->linear);
    __m512i k = _mm512_castps_si512(_mm512_fmadd_ps(within, slope, t->magic));
    __mmask16 above = _mm512_cmp_ps_mask(s, _mm512_permutexvar_ps(k, t->thresholds), _CMP_GT_OQ);
    k = _mm512_mask_add_epi32(k, above, k, t->step);
    *q = _mm512_permutexvar_ps(k, t->values);
    return k;
  }
  __m512 within = clamp ? _mm512_min_ps(a, t->one) : a;
  __m512 slope = _mm512_fnmadd_ps(within, t->quadratic, t->linear);
  __m512i k = _mm512_castps_si512(_mm512_fmadd_ps(within, slope, t->magic));
  __m512 threshold = _mm512_permutexvar_ps(k, t->thresholds);
  __mmask16 negative = _mm512_cmp_ps_mask(s, t->negative_below, _CMP_LT_OQ);
  // `cpu` sends a tie below zero away from it: one float further it is no tie any more.
  __m512i bits = _mm512_castps_si512(a);
  a = _mm512_castsi512_ps(_mm512_mask_add_epi32(bits, negative, bits, t->bump));
  __mmask16 above = _mm512_cmp_ps_mask(a, threshold, _CMP_GT_OQ);
  k = _mm512_mask_add_epi32(k, above, k, t->step);
  k = _mm512_mask_or_epi32(k, negative, k, _mm512_set1_epi32(8));
  *q = _mm512_permutexvar_ps(k, t->values);
  return _mm512_permutexvar_epi32(k, t->codes);
}

#endif
