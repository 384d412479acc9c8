// The search for scales with AVX2: a lane for each scale, eight at a time.

#if defined(__x86_64__)

#include "avx2_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

AVX2_INLINE void sums_of(const avx2_tables *t, int nf4, __m256 steps, const float *y, size_t block, int first,
                         nibble_search_sums *sums) {
  __m256 yq[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, qq[2] = {yq[0], yq[0]};
  for (size_t i = 0; i < block; i += 2) {
#pragma clang loop unroll(full)
    for (int odd = 0; odd < 2; odd++) {
      __m256 q, element = _mm256_broadcast_ss(y + i + odd);
      avx2_codes(t, nf4, 1, _mm256_mul_ps(element, steps), &q);
      yq[odd] = _mm256_add_ps(yq[odd], _mm256_mul_ps(element, q));
      qq[odd] = _mm256_add_ps(qq[odd], _mm256_mul_ps(q, q));
    }
  }
  for (int odd = 0; odd < 2; odd++) {
    _mm256_storeu_ps(sums->yq[odd] + first, yq[odd]);
    _mm256_storeu_ps(sums->qq[odd] + first, qq[odd]);
  }
}

AVX2_INLINE void search_blocks(int nf4, int n, const float *y, size_t blocks, size_t block, float *scales) {
  const avx2_tables t = avx2_make_tables(nf4, 0);
  for (size_t b = 0; b < blocks; b++, y += block) {
    nibble_search_sums sums;
    for (int k = 0; k < n; k += 8) {
      __m256 steps = _mm256_loadu_ps(nibble_search_steps + k % nibble_scales);
      if (k >= nibble_scales) steps = _mm256_xor_ps(steps, t.sign);
      sums_of(&t, nf4, steps, y, block, k, &sums);
    }
    scales[b] = nibble_best_scale(&sums, n);
  }
}

AVX2 void nibble_search_avx2(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  if (code == nibble_nf4) search_blocks(1, both_signs ? 2 * nibble_scales : nibble_scales, y, blocks, block, scales);
  else search_blocks(0, nibble_scales, y, blocks, block, scales);
}

#endif
