// The search for scales with AVX-512: a lane for each of the 16 scales, so that no sum runs across lanes.

#if defined(__x86_64__)

#include "avx512_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  __m512 yq[2], qq[2];  ///< at even and at odd places
} search_sums;

AVX512_INLINE void add(const avx512_tables *t, int nf4, __m512 y, __m512 s, int odd, search_sums *sums) {
  __m512 q;
  avx512_codes(t, nf4, 1, s, &q);
  sums->yq[odd] = _mm512_add_ps(sums->yq[odd], _mm512_mul_ps(y, q));
  sums->qq[odd] = _mm512_add_ps(sums->qq[odd], _mm512_mul_ps(q, q));
}

/// The greatest gain among 16 scales, and its scale.
AVX512_INLINE float best_of(const search_sums *sums, float *scale) {
  __m512 yq = _mm512_add_ps(sums->yq[0], sums->yq[1]), qq = _mm512_add_ps(sums->qq[0], sums->qq[1]);
  __m512 gain = _mm512_div_ps(_mm512_mul_ps(yq, yq), qq);
  float most = _mm512_reduce_max_ps(gain);
  __mmask16 first = _mm512_cmp_ps_mask(gain, _mm512_set1_ps(most), _CMP_EQ_OQ);
  *scale = _mm512_cvtss_f32(_mm512_maskz_compress_ps(first, _mm512_div_ps(yq, qq)));
  return most;
}

AVX512_INLINE void search_blocks(int nf4, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  const avx512_tables t = avx512_make_tables(nf4, 0);
  const __m512 steps = _mm512_loadu_ps(nibble_search_steps), sign = _mm512_set1_ps(-0.0f);
  for (size_t b = 0; b < blocks; b++) {
    search_sums plus = {0}, minus = {0};
    for (size_t i = 0; i < block; i += 2, y += 2) {
#pragma clang loop unroll(full)
      for (int odd = 0; odd < 2; odd++) {
        __m512 element = _mm512_set1_ps(y[odd]), s = _mm512_mul_ps(element, steps);
        add(&t, nf4, element, s, odd, &plus);
        if (both_signs) add(&t, nf4, element, _mm512_xor_ps(s, sign), odd, &minus);
      }
    }
    float opposite, most = best_of(&plus, scales + b);
    if (both_signs && best_of(&minus, &opposite) > most) scales[b] = opposite;
  }
}

AVX512 void nibble_search_avx512(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block,
                                 float *scales) {
  if (code == nibble_nf4 && both_signs) search_blocks(1, 1, y, blocks, block, scales);
  else if (code == nibble_nf4) search_blocks(1, 0, y, blocks, block, scales);
  else search_blocks(0, 0, y, blocks, block, scales);
}

#endif
