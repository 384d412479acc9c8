// Products of two to eight rows with the bfloat16 dot product. One row stays in float32: it waits for memory anyway.

#if defined(__x86_64__)

#include "avx512bf16.h"

#define FEW_MOST 12
#define FEW_PAIRS 8
#define TARGET AVX512BF16
#include "avx512_few.h"

/// Of every 64 numbers the 32 at even places, then the 32 at odd ones, rounded.
AVX512BF16_INLINE void split_halves(const float *x, size_t k, uint16_t *out) {
  for (size_t i = 0; i < k; i += 64) {
    float part[64] = {0}, split[64];
    memcpy(part, x + i, 4 * (k - i < 64 ? k - i : 64));
    split_floats(part, 64, split);
    for (size_t half = 0; half < 2; half++) {
      __m512 a = _mm512_loadu_ps(split + 16 * half), b = _mm512_loadu_ps(split + 32 + 16 * half);
      _mm512_storeu_si512(out + i + 32 * half, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
  }
}

/// Numbers from one such row to the next.
static size_t halves_stride(size_t k) { return (k + 63) / 64 * 64 + 32; }

/// Rows of codes whose blocks, and so whose rows, are made of whole 64 elements.
AVX512BF16_INLINE void rows_of_codes16(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  const int chains = m <= 4 ? 2 : 1;
  const uint16_t *x = few->more;
  const size_t stride = halves_stride(w->columns);
  few_codes at[2];
  __m512 book = _mm512_loadu_ps(w->codebook);
  __m512i table[2];
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
      table[l] = table_of(book, *at[l].scale, *at[l].scale);
      __builtin_prefetch(at[l].codes + 4096);
    }
    for (size_t i = 0; i < part; i += 64, x += 64) {
#pragma clang loop unroll(full)
      for (int l = 0; l < n; l++) {
        __m512i index = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const void *)(at[l].codes + i / 2)));
        // The permute reads five bits of an index: with the table twice, the fifth does not matter.
        __m512i even = _mm512_permutexvar_epi16(_mm512_srli_epi16(index, 4), table[l]);
        __m512i odd = _mm512_permutexvar_epi16(index, table[l]);
#pragma clang loop unroll(full)
        for (int r = 0; r < m; r++) {
          const uint16_t *from = x + (size_t)r * stride;
          s[l][r][0] = _mm512_dpbf16_ps(s[l][r][0], (__m512bh)even, (__m512bh)_mm512_loadu_si512(from));
          s[l][r][chains - 1] =
              _mm512_dpbf16_ps(s[l][r][chains - 1], (__m512bh)odd, (__m512bh)_mm512_loadu_si512(from + 32));
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

TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  if (w->packed && !(w->columns % 64 || w->block % 64)) rows_of_codes16(m, n, few, j, sums);
  else rows_of_others(m, n, few, j, sums);
}

static size_t packed_bytes(size_t m, size_t k) {
  if (m == 1) return nibble_avx512_few.packed_bytes(m, k);
  return few_packed_bytes(m, k) + 2 * m * halves_stride(k);
}

AVX512BF16 static void pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  if (m == 1) {
    nibble_avx512_few.pack(x, m, k, stride, packed);
    return;
  }
  uint16_t *more = (uint16_t *)((char *)packed + few_packed_bytes(m, k));
  few_pack(x, m, k, stride, packed);
  for (size_t i = 0; i < m; i++) split_halves(x + i * stride, k, more + i * halves_stride(k));
}

AVX512BF16 static void multiply(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                                float *y, size_t stride, void *scratch) {
  if (m == 1) nibble_avx512_few.multiply(w, packed, m, first, count, add, y, stride, scratch);
  else few_multiply(w, packed, m, first, count, add, y, stride, scratch);
}

const nibble_few_products nibble_avx512bf16_few = {
    .most = FEW_MOST, .packed_bytes = packed_bytes, .pack = pack, .scratch = few_scratch, .multiply = multiply,
    .multiply_transposed = few_transposed};

#endif
