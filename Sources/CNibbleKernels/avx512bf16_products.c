// Products with the bfloat16 dot product of AVX-512.

#if defined(__x86_64__)

#include "avx512_products.h"

#define AVX512BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")))
#define TARGET AVX512BF16
#define PAIR 2
#define VEC_SPREAD(p) _mm512_castsi512_ps(_mm512_set1_epi32((int)nibble_load32(p, 0)))
#define VEC_STEP(c, w, x) _mm512_dpbf16_ps(c, (__m512bh)(w), (__m512bh)(x))
#define VEC_PAIRS(v, w) ((__m512)_mm512_cvtne2ps_pbh(w, v))

#include "products_loops.h"

AVX512BF16 static void decode(const nibble_matrix *w, size_t element, size_t n, void *out) {
  nibble_matrix_run(&nibble_avx512_kernels, w, element, n, nibble_bf16, out);
}

AVX512BF16 static void decode_pair(const nibble_matrix *w, size_t row, size_t rows, size_t column, size_t n, uint32_t *out) {
  uint16_t first[nibble_panel], second[nibble_panel] = {0};
  decode(w, row * w->columns + column, n, first);
  if (rows > 1) decode(w, (row + 1) * w->columns + column, n, second);
  for (size_t i = 0; i < n; i++) out[i] = first[i] | (uint32_t)second[i] << 16;
}

AVX512BF16 static void pack(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(0, x, rows, lanes, k, stride, packed);
}

const nibble_products nibble_avx512bf16_product = {
    .pair = 2, .rounds = 1, .width = WIDTH, .tile = TILE, .pack = pack, .decode = decode, .decode_pair = decode_pair,
    .tile_product = tile_product, .store = store};

#endif
