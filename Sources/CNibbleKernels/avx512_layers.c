// The layers compiled for AVX-512, with its masked loads and its product by a power of two.

#if defined(__x86_64__)

#include "avx512.h"

#define NIBBLE_LANES 16
#define LANES_TARGET AVX512
#define LANES_OWN_PARTS
#define LANES_OWN_SCALE

AVX512_INLINE __mmask16 part_mask(size_t n) { return (__mmask16)((1u << n) - 1); }

AVX512_INLINE __m512 lanes_load_part(const float *p, size_t n) { return _mm512_maskz_loadu_ps(part_mask(n), p); }

AVX512_INLINE void lanes_store_part(float *p, __m512 v, size_t n) { _mm512_mask_storeu_ps(p, part_mask(n), v); }

AVX512_INLINE __m512 lanes_scale(__m512 p, __m512 n) { return _mm512_scalef_ps(p, n); }

#include "attend_loops.h"

const nibble_layers nibble_avx512_layers = NIBBLE_LAYERS_TABLE;

#endif
