// Products of few rows with AVX2, in float32: weights from codes are used from the register they are looked up into. (Where
// bfloat16 is asked for, they keep more than that.)

#if defined(__x86_64__)

#include "avx2_products.h"

#define FEW_MOST 10
#define FEW_PAIRS 2
#define VEC_MUL(w, x) _mm256_mul_ps(w, x)
#define VEC_FMA(w, x, c) _mm256_fmadd_ps(w, x, c)
#define VEC_PART(p, n) part_of(p, n)
#define VEC_FILL(f) _mm256_set1_ps(f)
#define KERNELS &nibble_avx2_kernels
#define FEW_DECODE(w, element, n, out) nibble_matrix_run(KERNELS, w, element, n, nibble_f32, out)
#define FEW_SCALES(w, first, n, scales) nibble_matrix_scales(w, first, n, scales)

AVX2_INLINE __m256 part_of(const void *p, size_t n) {
  float part[8] = {0};
  memcpy(part, p, 4 * n);
  return _mm256_loadu_ps(part);
}

/// table[index] by an index's lower four bits; `top` has the fourth at its top.
AVX2_INLINE __m256 lookup(__m256 low, __m256 high, __m256i index, __m256i top) {
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index),
                          _mm256_castsi256_ps(top));
}

#define FEW_UNITS
typedef struct {
  __m256 low, high;
} few_book;

AVX2_INLINE few_book few_book_of(const float *codebook) { return (few_book){_mm256_loadu_ps(codebook), _mm256_loadu_ps(codebook + 8)}; }

AVX2_INLINE void few_look_up(few_book book, float scale, const uint8_t *codes, __m256 *out) {
  __m256 low = _mm256_mul_ps(book.low, _mm256_set1_ps(scale)), high = _mm256_mul_ps(book.high, _mm256_set1_ps(scale));
  __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)codes));
  out[0] = lookup(low, high, _mm256_srli_epi32(index, 4), _mm256_slli_epi32(index, 24));
  out[1] = lookup(low, high, index, _mm256_slli_epi32(index, 28));
}

#include "few_loops.h"

/// Floats from one split row to the next.
static size_t split_stride(size_t k) { return (k + 15) / 16 * 16 + 8; }

/// Rows of codes whose blocks, and so whose rows, are made of whole 16 elements.
AVX2_INLINE void rows_of_codes(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  const int chains = m <= 4 ? 2 : 1;
  const float *x = few->more;
  const size_t stride = split_stride(w->columns);
  few_codes at[2];
  __m256 book0 = _mm256_loadu_ps(w->codebook), book1 = _mm256_loadu_ps(w->codebook + 8), low[2], high[2];
  vec s[2][nibble_few][2];
  start_codes(n, few, j, at);
#pragma clang loop unroll(full)
  for (int l = 0; l < n; l++)
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++) s[l][r][0] = s[l][r][1] = _mm256_setzero_ps();
  for (size_t left = w->columns, part; left; left -= part) {
    part = part_of_codes(n, w, left, at);
#pragma clang loop unroll(full)
    for (int l = 0; l < n; l++) {
      low[l] = _mm256_mul_ps(book0, _mm256_set1_ps(*at[l].scale));
      high[l] = _mm256_mul_ps(book1, _mm256_set1_ps(*at[l].scale));
      __builtin_prefetch(at[l].codes + 4096);
    }
    for (size_t i = 0; i < part; i += 16, x += 16) {
#pragma clang loop unroll(full)
      for (int l = 0; l < n; l++) {
        __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(at[l].codes + i / 2)));
        __m256 even = lookup(low[l], high[l], _mm256_srli_epi32(index, 4), _mm256_slli_epi32(index, 24));
        __m256 odd = lookup(low[l], high[l], index, _mm256_slli_epi32(index, 28));
#pragma clang loop unroll(full)
        for (int r = 0; r < m; r++) {
          const float *from = x + (size_t)r * stride;
          s[l][r][0] = _mm256_fmadd_ps(even, _mm256_loadu_ps(from), s[l][r][0]);
          s[l][r][chains - 1] = _mm256_fmadd_ps(odd, _mm256_loadu_ps(from + 8), s[l][r][chains - 1]);
        }
      }
    }
    step_codes(n, w, part, at);
  }
#pragma clang loop unroll(full)
  for (int l = 0; l < n; l++)
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++) sums[l][r] = _mm256_add_ps(s[l][r][0], s[l][r][1]);
}

/// A row of anything else. A call for all: it is big.
__attribute__((noinline)) AVX2 static void row_of_others(int m, const few_product *few, size_t j, vec *sums) {
#define CALL(m) row_of_any(m, few, j, sums)
  FEW_CASES(CALL)
#undef CALL
}

TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  if (nibble_has_blocks(w) && !(w->columns % 16 || w->block % 16)) {
    rows_of_codes(m, n, few, j, sums);
  } else {
    for (int l = 0; l < n; l++) row_of_others(m, few, j + (size_t)l, sums[l]);
  }
}

AVX2 static size_t packed_bytes(size_t m, size_t k) { return (few_packed_bytes(m, k) + 4 * m * split_stride(k) + 63) / 64 * 64; }

/// Of every 16 numbers the 8 at even places, then the 8 at odd ones: in this order bytes of codes give indices.
AVX2 static void pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  float *more = (float *)((char *)packed + few_packed_bytes(m, k));
  few_pack(x, m, k, stride, packed);
  memset(more, 0, 4 * m * split_stride(k));
  for (size_t r = 0; r < m; r++)
    for (size_t i = 0; i < k; i++) more[r * split_stride(k) + i / 16 * 16 + i % 2 * 8 + i % 16 / 2] = x[r * stride + i];
}

const nibble_few_products nibble_avx2_few = {
    .most = FEW_MOST, .packed_bytes = packed_bytes, .pack = pack, .scratch = few_scratch, .multiply = few_multiply,
    .multiply_transposed = few_transposed};

#endif
