// Products of few rows with AVX-512, in float32: weights from codes are used from the register they are looked up into.

#if defined(__x86_64__)

#include "avx512_lookup.h"

#define TARGET AVX512
#define VEC_FMA(w, x, c) _mm512_fmadd_ps(w, x, c)
#define VEC_PART(p, n) _mm512_maskz_loadu_ps((__mmask16)NIBBLE_MASK(n), p)
#define VEC_FILL(f) _mm512_set1_ps(f)
#define KERNELS &nibble_avx512_kernels
#define FEW_DECODE(w, element, n, out) nibble_matrix_run(KERNELS, w, element, n, nibble_f32, out)
#define ROW(m, few, j, sums) row(m, few, j, sums)

typedef struct few_product few_product;
AVX512_INLINE void row(const int m, const few_product *few, size_t j, vec *sums);

#include "few_loops.h"

AVX512_INLINE void row_of_codes(const int m, const few_product *few, size_t element, vec *sums) {
  const nibble_matrix *w = few->w;
  const float *x = few->x, *scale = few->scales;
  size_t left = w->columns, within = element % w->block;
  const int chains = m <= 2 ? 4 : 2;
  vec s[nibble_few][4];
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
    for (int c = 0; c < chains; c++) s[r][c] = _mm512_setzero_ps();
  scales_avx512(w, element / w->block, (within + left + w->block - 1) / w->block, few->scales);
  const uint8_t *codes = (const uint8_t *)w->data + element / 2;
  __m512 book = _mm512_loadu_ps(w->codebook);
  for (; left; within = 0) {
    size_t part = w->block - within, i = 0;
    part = part < left ? part : left;
    __m512 table = _mm512_mul_ps(book, _mm512_set1_ps(*scale++));
    for (; i + 64 <= part; i += 64) {
      __builtin_prefetch(codes + i / 2 + 3072);
#pragma clang loop unroll(full)
      for (int c = 0; c < 4; c++) {
        __m512 v = lookup_f32(table, _mm_loadl_epi64((const void *)(codes + i / 2 + 8 * (size_t)c)));
#pragma clang loop unroll(full)
        for (int r = 0; r < m; r++)
          s[r][c % chains] = _mm512_fmadd_ps(v, _mm512_loadu_ps(x + (size_t)r * few->stride + i + 16 * (size_t)c),
                                             s[r][c % chains]);
      }
    }
    for (; i < part; i += 16) {
      __mmask16 mask = (__mmask16)NIBBLE_MASK(part - i < 16 ? part - i : 16);
      __mmask16 bytes = (__mmask16)NIBBLE_MASK(part - i < 16 ? (part - i + 1) / 2 : 8);
      __m512 v = _mm512_maskz_mov_ps(mask, lookup_f32(table, _mm_maskz_loadu_epi8(bytes, codes + i / 2)));
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++)
        s[r][0] = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(mask, x + (size_t)r * few->stride + i), s[r][0]);
    }
    codes += part / 2, x += part, left -= part;
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++) {
    sums[r] = _mm512_add_ps(s[r][0], s[r][1]);
    if (chains == 4) sums[r] = _mm512_add_ps(sums[r], _mm512_add_ps(s[r][2], s[r][3]));
  }
}

AVX512_INLINE void row(const int m, const few_product *few, size_t j, vec *sums) {
  size_t element = j * few->w->columns;
  if (few->w->packed && !(element & 1)) row_of_codes(m, few, element, sums);
  else row_of_any(m, few, j, sums);
}

const nibble_few_products nibble_avx512_few = {
    .packed_bytes = few_packed_bytes, .pack = few_pack, .scratch = few_scratch, .multiply = few_multiply,
    .multiply_transposed = few_transposed};

#endif
