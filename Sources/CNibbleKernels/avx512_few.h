// What AVX-512 adds to few_loops.h, in float32: weights are used from the register they were widened or looked up into.

#ifndef NIBBLE_AVX512_FEW_H
#define NIBBLE_AVX512_FEW_H

#include "avx512_lookup.h"

#define VEC_MUL(w, x) _mm512_mul_ps(w, x)
#define VEC_FMA(w, x, c) _mm512_fmadd_ps(w, x, c)
#define VEC_PART(p, n) _mm512_maskz_loadu_ps((__mmask16)NIBBLE_MASK(n), p)
#define VEC_FILL(f) _mm512_set1_ps(f)
#define FEW_SCALES(w, first, n, scales) scales_avx512(w, first, n, scales)
#define KERNELS &nibble_avx512_kernels
#define FEW_DECODE(w, element, n, out) decode_floats(0, w, element, n, out)

#define FEW_UNITS
typedef __m512 few_book;
AVX512_INLINE __m512 few_book_of(const float *codebook) { return _mm512_loadu_ps(codebook); }

AVX512_INLINE void few_look_up(__m512 book, float scale, const uint8_t *codes, __m512 *out) {
  __m512 table = _mm512_mul_ps(book, _mm512_set1_ps(scale));
  __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
  // The permute reads the low four bits of an index only.
  out[0] = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 4), table);
  out[1] = _mm512_permutexvar_ps(index, table);
}

#include "few_loops.h"

/// Of every 32 numbers the 16 at even places, then the 16 at odd ones: in this order bytes of codes give indices.
TARGET_INLINE void split_floats(const float *x, size_t k, float *out) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  for (size_t i = 0; i < k; i += 32) {
    size_t n = k - i;
    __m512 a = _mm512_maskz_loadu_ps((__mmask16)NIBBLE_MASK(n < 16 ? n : 16), x + i);
    __m512 b = n > 16 ? _mm512_maskz_loadu_ps((__mmask16)NIBBLE_MASK(n < 32 ? n - 16 : 16), x + i + 16) : _mm512_setzero_ps();
    _mm512_storeu_ps(out + i, _mm512_permutex2var_ps(a, even, b));
    _mm512_storeu_ps(out + i + 16, _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b));
  }
}

/// Floats from one split row to the next.
NIBBLE_INLINE size_t split_stride(size_t k) { return (k + 31) / 32 * 32 + 16; }

/// Whether one row of x has codes it can take by lanes: 128 elements, of one block or two, at a time.
NIBBLE_INLINE int by_lanes(const nibble_matrix *w) {
  return !(w->columns % 128) && (w->block == 64 || !(w->block % 128));
}

/// Scales of the lanes of the next 128 elements.
TARGET_INLINE __m512 scales_of_lanes(const nibble_matrix *w, few_codes *at) {
  __m512 scales = _mm512_set1_ps(*at->scale);
  if (w->block == 64) {
    scales = _mm512_mask_broadcastss_ps(scales, 0xff00, _mm_load_ss(at->scale + 1));
    at->scale += 2;
  } else {
    at->within += 128;
    if (at->within == w->block) at->within = 0, at->scale++;
  }
  return scales;
}

/// Floats before the row that is packed for this, behind what is packed for any number of rows.
NIBBLE_INLINE size_t lanes_offset(size_t k) { return split_stride(k); }

/// Floats of that row.
NIBBLE_INLINE size_t lanes_stride(size_t k) { return (k + 127) / 128 * 128; }

/// Rows of codes whose blocks, and so whose rows, are made of whole 32 elements.
TARGET_INLINE void rows_of_codes(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  const int chains = m <= 4 ? 2 : 1;
  const float *x = few->more;
  const size_t stride = split_stride(w->columns);
  few_codes at[2];
  __m512 book = _mm512_loadu_ps(w->codebook), table[2];
  vec s[2][nibble_few][2];
  start_codes(n, few, j, at);
#pragma clang loop unroll(full)
  for (int l = 0; l < n; l++)
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++) s[l][r][0] = s[l][r][1] = _mm512_setzero_ps();
  for (size_t left = w->columns, part; left; left -= part) {
    part = part_of_codes(n, w, left, at);
#pragma clang loop unroll(full)
    for (int l = 0; l < n; l++) {
      table[l] = _mm512_mul_ps(book, _mm512_set1_ps(*at[l].scale));
      __builtin_prefetch(at[l].codes + 8192);
    }
    for (size_t i = 0; i < part; i += 32, x += 32) {
#pragma clang loop unroll(full)
      for (int l = 0; l < n; l++) {
        __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(at[l].codes + i / 2)));
        // The permute reads the low four bits of an index only.
        __m512 even = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 4), table[l]);
        __m512 odd = _mm512_permutexvar_ps(index, table[l]);
#pragma clang loop unroll(full)
        for (int r = 0; r < m; r++) {
          const float *from = x + (size_t)r * stride;
          s[l][r][0] = _mm512_fmadd_ps(even, _mm512_loadu_ps(from), s[l][r][0]);
          s[l][r][chains - 1] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(from + 16), s[l][r][chains - 1]);
        }
      }
    }
    step_codes(n, w, part, at);
  }
#pragma clang loop unroll(full)
  for (int l = 0; l < n; l++)
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++) sums[l][r] = _mm512_add_ps(s[l][r][0], s[l][r][1]);
}

/// A row of bfloat16.
TARGET_INLINE void row_of_bf16(const int m, const few_product *few, size_t j, vec *sums) {
  const size_t k = few->w->columns;
  const uint16_t *w = (const uint16_t *)few->w->data + j * k;
  const size_t chains = m <= 2 ? 4 : m <= 4 ? 2 : 1;
  vec s[nibble_few][4];
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
    for (int c = 0; c < 4; c++) s[r][c] = _mm512_setzero_ps();
  for (size_t i = 0; i < k; i += 64) {
    __builtin_prefetch((const char *)(w + i) + 4096);
    __builtin_prefetch((const char *)(w + i) + 4160);
#pragma clang loop unroll(full)
    for (size_t c = 0; c < 4; c++) {
      size_t at = i + 16 * c;
      if (at >= k) break;
      __m256i half = at + 16 <= k ? _mm256_loadu_si256((const void *)(w + at))
                                  : _mm256_maskz_loadu_epi16((__mmask16)NIBBLE_MASK(k - at), w + at);
      vec v = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++)
        s[r][c % chains] = _mm512_fmadd_ps(v, _mm512_loadu_ps(few->x + (size_t)r * few->stride + at), s[r][c % chains]);
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++) sums[r] = _mm512_add_ps(_mm512_add_ps(s[r][0], s[r][1]), _mm512_add_ps(s[r][2], s[r][3]));
}

/// A row of anything but codes in whole blocks of 32 or 64. A call for all: it is big.
__attribute__((noinline)) TARGET static void row_of_others(int m, const few_product *few, size_t j, vec *sums) {
  const nibble_matrix *w = few->w;
#define CALL(m) row_of_bf16(m, few, j, sums)
  if (!w->storage && w->number == nibble_bf16) FEW_CASES(CALL)
#undef CALL
#define CALL(m) row_of_any(m, few, j, sums)
  else FEW_CASES(CALL)
#undef CALL
}

TARGET_INLINE void rows_of_others(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  for (int l = 0; l < n; l++) row_of_others(m, few, j + (size_t)l, sums[l]);
}

#endif
