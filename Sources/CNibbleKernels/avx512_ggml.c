// ggml's blocks compiled for AVX-512.

#if defined(__x86_64__)

#include "avx512.h"

#define NIBBLE_OWN_LEVELS

AVX512_INLINE void nibble_look_up(const int8_t *levels, const uint8_t *codes, int8_t *out) {
  __m128i found = _mm_shuffle_epi8(_mm_loadu_si128((const void *)levels), _mm_loadu_si128((const void *)codes));
  _mm_storeu_si128((void *)out, found);
}

#define NIBBLE_LANES 16
#define LANES_TARGET AVX512

#include "ggml_weighted_loops.h"

const nibble_ggml_kernels nibble_avx512_ggml = NIBBLE_GGML_TABLE;

#endif
