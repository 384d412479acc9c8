// The errors of candidate scales with AVX-512: the arithmetic of search.c, its 16 sums in one register.

#if defined(__x86_64__)

#include "avx512_code.h"

#pragma STDC FP_CONTRACT OFF

AVX512_INLINE float sum_of_lanes(__m512 v) {
  __m256 v8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
  __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
  return _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
}

AVX512_INLINE void errors_of(int nf4, const float *x, size_t count, const float *inverse, size_t candidates,
                             float *errors) {
  const avx512_tables t = avx512_make_tables(nf4, 0);
  for (size_t k = 0; k < candidates; k++) {
    __m512 sum = _mm512_setzero_ps(), scale = _mm512_set1_ps(inverse[k]);
    for (size_t i = 0; i < count; i += 16) {
      __m512 q, s = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
      avx512_codes(&t, nf4, 1, s, &q);
      __m512 e = _mm512_sub_ps(s, q);
      sum = _mm512_add_ps(sum, _mm512_mul_ps(e, e));
    }
    errors[k] = sum_of_lanes(sum);
  }
}

AVX512 void nibble_scale_errors_avx512(nibble_code code, const float *x, size_t count, const float *inverse,
                                       size_t candidates, float *errors) {
  if (code == nibble_nf4) errors_of(1, x, count, inverse, candidates, errors);
  else errors_of(0, x, count, inverse, candidates, errors);
}

#endif
