// The layers compiled for AVX2, with its masked loads.

#if defined(__x86_64__)

#include "avx2.h"

#define NIBBLE_LANES 8
#define LANES_TARGET AVX2
#define LANES_OWN_PARTS

AVX2_INLINE __m256i part_mask(size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

AVX2_INLINE __m256 lanes_load_part(const float *p, size_t n) { return _mm256_maskload_ps(p, part_mask(n)); }

AVX2_INLINE void lanes_store_part(float *p, __m256 v, size_t n) { _mm256_maskstore_ps(p, part_mask(n), v); }

#include "attend_loops.h"

const nibble_layers nibble_avx2_layers = NIBBLE_LAYERS_TABLE;

#endif
