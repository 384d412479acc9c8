// Products in float32 with AVX-512; with numbers rounded to bfloat16 where there is no bfloat16 instruction.

#if defined(__x86_64__)

#include "avx512_lookup.h"

#define TARGET AVX512
#define PAIR 1
#define VEC_SPREAD(p) _mm512_set1_ps(nibble_load_f32(p, 0))
#define VEC_STEP(c, w, x) _mm512_fmadd_ps(w, x, c)
#define VEC_ROUND(v) round_bf16(v)

AVX512 static void decode(const nibble_matrix *w, size_t element, size_t n, void *out) {
  decode_floats(0, w, element, n, out);
}

AVX512 static void decode_rounded(const nibble_matrix *w, size_t element, size_t n, void *out) {
  decode_floats(1, w, element, n, out);
}

#include "products_loops.h"

AVX512 static void pack_exact(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(0, x, rows, lanes, k, stride, packed);
}

AVX512 static void pack_rounded(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(1, x, rows, lanes, k, stride, packed);
}

const nibble_products nibble_avx512_products[2] = {
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_exact, .decode = decode, .tile_product = tile_product,
     .store = store, .few = &nibble_avx512_few},
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_rounded, .decode = decode_rounded, .tile_product = tile_product,
     .store = store, .few = &nibble_avx512_few},
};

#endif
