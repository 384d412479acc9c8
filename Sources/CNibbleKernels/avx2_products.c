// Products in float32 with AVX2; numbers rounded to bfloat16 where that is asked for.

#if defined(__x86_64__)

#include "avx2.h"
#include "products.h"

#define WIDTH 8
#define TILE 6
#define TARGET AVX2
#define PAIR 1
#define VEC_LOAD(p) _mm256_loadu_ps(p)
#define VEC_STORE(p, v) _mm256_storeu_ps(p, v)
#define VEC_ADD(a, b) _mm256_add_ps(a, b)
#define VEC_SPREAD(p) _mm256_set1_ps(nibble_load_f32(p, 0))
#define VEC_STEP(c, w, x) _mm256_fmadd_ps(w, x, c)
#define VEC_ROUND(v) round_bf16(v)
#define TURN(v) turn8(v)

typedef __m256 vec;

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

/// Transposes 8 registers of 8.
AVX2_INLINE void turn8(__m256 v[8]) {
  __m256 t[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i += 4)
#pragma clang loop unroll(full)
    for (int h = 0; h < 2; h++) {
      __m256d a = _mm256_castps_pd(t[i + h]), b = _mm256_castps_pd(t[i + h + 2]);
      v[i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      v[i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
#pragma clang loop unroll(full)
  for (int c = 0; c < 4; c++) {
    t[c] = _mm256_permute2f128_ps(v[c], v[4 + c], 0x20);
    t[c + 4] = _mm256_permute2f128_ps(v[c], v[4 + c], 0x31);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) v[i] = t[i];
}

AVX2 static void decode(const nibble_matrix *w, size_t element, size_t n, void *out) {
  nibble_matrix_run(&nibble_avx2_kernels, w, element, n, nibble_f32, out);
}

AVX2 static void decode_rounded(const nibble_matrix *w, size_t element, size_t n, void *out) {
  float *x = out;
  decode(w, element, n, out);
  for (size_t i = 0; i < n; i++) x[i] = nibble_from_bf16(nibble_to_bf16(x[i]));
}

#define VEC_FMA(w, x, c) _mm256_fmadd_ps(w, x, c)
#define VEC_PART(p, n) part_of(p, n)
#define VEC_FILL(f) _mm256_set1_ps(f)
#define KERNELS &nibble_avx2_kernels
#define FEW_DECODE(w, element, n, out) decode(w, element, n, out)
#define ROW(m, few, j, sums) row_of_any(m, few, j, sums)

AVX2_INLINE __m256 part_of(const float *p, size_t n) {
  float part[8] = {0};
  memcpy(part, p, 4 * n);
  return _mm256_loadu_ps(part);
}

#include "products_loops.h"
#include "few_loops.h"

AVX2 static void pack_exact(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(0, x, rows, lanes, k, stride, packed);
}

AVX2 static void pack_rounded(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(1, x, rows, lanes, k, stride, packed);
}

const nibble_few_products nibble_avx2_few = {
    .packed_bytes = few_packed_bytes, .pack = few_pack, .scratch = few_scratch, .multiply = few_multiply,
    .multiply_transposed = few_transposed};

const nibble_products nibble_avx2_products[2] = {
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_exact, .decode = decode, .tile_product = tile_product,
     .store = store, .few = &nibble_avx2_few},
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_rounded, .decode = decode_rounded,
     .tile_product = tile_product, .store = store, .few = &nibble_avx2_few},
};

#endif
