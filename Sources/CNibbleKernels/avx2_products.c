// Products in float32 with AVX2; numbers rounded to bfloat16 where that is asked for.

#if defined(__x86_64__)

#include "avx2_products.h"

#define PAIR 1
#define VEC_SPREAD(p) _mm256_set1_ps(nibble_load_f32(p, 0))
#define VEC_STEP(c, w, x) _mm256_fmadd_ps(w, x, c)
#define VEC_ROUND(v) round_bf16(v)

/// Rounds to bfloat16, nearest even; NaN stays.
AVX2_INLINE __m256 round_bf16(__m256 x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  r = _mm256_blendv_epi8(r, quiet, nan);
  return _mm256_castsi256_ps(_mm256_and_si256(r, _mm256_set1_epi32((int)0xffff0000u)));
}

AVX2 static void decode(const nibble_matrix *w, size_t element, size_t n, void *out) {
  nibble_matrix_run(&nibble_avx2_kernels, w, element, n, nibble_f32, out);
}

AVX2 static void decode_rounded(const nibble_matrix *w, size_t element, size_t n, void *out) {
  float *x = out;
  decode(w, element, n, out);
  for (size_t i = 0; i < n; i++) x[i] = nibble_from_bf16(nibble_to_bf16(x[i]));
}

#include "products_loops.h"

AVX2 static void pack_exact(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(0, x, rows, lanes, k, stride, packed);
}

AVX2 static void pack_rounded(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(1, x, rows, lanes, k, stride, packed);
}

const nibble_products nibble_avx2_products[2] = {
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_exact, .decode = decode, .tile_product = tile_product,
     .store = store, .few = &nibble_avx2_few},
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_rounded, .decode = decode_rounded,
     .tile_product = tile_product, .store = store, .few = &nibble_avx2_few},
};

#endif
