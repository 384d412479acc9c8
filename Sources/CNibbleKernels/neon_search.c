// The search for scales with NEON: a lane for each scale, four at a time.

#if defined(__aarch64__)

#include "neon.h"
#include "neon_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

NIBBLE_INLINE void sums_of(const neon_tables *t, int nf4, float32x4_t steps, const float *y, size_t block, int first,
                           nibble_search_sums *sums) {
  float32x4_t yq[2] = {vdupq_n_f32(0), vdupq_n_f32(0)}, qq[2] = {yq[0], yq[0]};
  for (size_t i = 0; i < block; i += 2) {
#pragma clang loop unroll(full)
    for (int odd = 0; odd < 2; odd++) {
      float32x4_t q, element = vdupq_n_f32(y[i + odd]);
      neon_codes(t, nf4, 1, vmulq_f32(element, steps), &q);
      float32x4_t product = vmulq_f32(element, q), square = vmulq_f32(q, q);
      yq[odd] = vaddq_f32(yq[odd], product);
      qq[odd] = vaddq_f32(qq[odd], square);
    }
  }
  for (int odd = 0; odd < 2; odd++) {
    vst1q_f32(sums->yq[odd] + first, yq[odd]);
    vst1q_f32(sums->qq[odd] + first, qq[odd]);
  }
}

NIBBLE_INLINE void search_blocks(int nf4, int n, const float *y, size_t blocks, size_t block, float *scales) {
  const neon_tables t = neon_make_tables(nf4, 0);
  for (size_t b = 0; b < blocks; b++, y += block) {
    nibble_search_sums sums;
    for (int k = 0; k < n; k += 4) {
      float32x4_t steps = vld1q_f32(nibble_search_steps + k % nibble_scales);
      if (k >= nibble_scales) steps = vnegq_f32(steps);
      sums_of(&t, nf4, steps, y, block, k, &sums);
    }
    scales[b] = nibble_best_scale(&sums, n);
  }
}

void nibble_search_neon(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  if (code == nibble_nf4) search_blocks(1, both_signs ? 2 * nibble_scales : nibble_scales, y, blocks, block, scales);
  else search_blocks(0, nibble_scales, y, blocks, block, scales);
}

#endif
