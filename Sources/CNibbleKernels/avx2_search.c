// The errors of candidate scales with AVX2: the arithmetic of search.c, its 16 sums in two registers.

#if defined(__x86_64__)

#include "avx2_code.h"

#pragma STDC FP_CONTRACT OFF

AVX2_INLINE __m256 squared_error(const avx2_tables *t, int nf4, const float *x, __m256 scale) {
  __m256 q, s = _mm256_mul_ps(_mm256_loadu_ps(x), scale);
  avx2_codes(t, nf4, 1, s, &q);
  __m256 e = _mm256_sub_ps(s, q);
  return _mm256_mul_ps(e, e);
}

AVX2_INLINE void errors_of(int nf4, const float *x, size_t count, const float *inverse, size_t candidates,
                           float *errors) {
  const avx2_tables t = avx2_make_tables(nf4, 0);
  for (size_t k = 0; k < candidates; k++) {
    __m256 low = _mm256_setzero_ps(), high = low, scale = _mm256_set1_ps(inverse[k]);
    for (size_t i = 0; i < count; i += 16) {
      low = _mm256_add_ps(low, squared_error(&t, nf4, x + i, scale));
      high = _mm256_add_ps(high, squared_error(&t, nf4, x + i + 8, scale));
    }
    __m256 v8 = _mm256_add_ps(low, high);
    __m128 v4 = _mm_add_ps(_mm256_castps256_ps128(v8), _mm256_extractf128_ps(v8, 1));
    __m128 v2 = _mm_add_ps(v4, _mm_movehl_ps(v4, v4));
    errors[k] = _mm_cvtss_f32(_mm_add_ss(v2, _mm_movehdup_ps(v2)));
  }
}

AVX2 void nibble_scale_errors_avx2(nibble_code code, const float *x, size_t count, const float *inverse,
                                   size_t candidates, float *errors) {
  if (code == nibble_nf4) errors_of(1, x, count, inverse, candidates, errors);
  else errors_of(0, x, count, inverse, candidates, errors);
}

#endif
