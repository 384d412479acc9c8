// Products of few rows with the bfloat16 dot product.

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
      __builtin_prefetch(at[l].codes + 8192);
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

/// One row of x, as rows_by_lanes of avx512_few.c has it: four registers of 16-bit indices.
AVX512BF16_INLINE void rows_by_lanes16(const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  const uint16_t *x = few->more;
  few_codes at[2];
  __m512 book = _mm512_loadu_ps(w->codebook);
  // The permute reads five bits of an index: with the table twice, the fifth does not matter.
  __m512i table = table_of(book, 1, 1);
  start_codes(n, few, j, at);
#pragma clang loop unroll(full)
  for (int l = 0; l < n; l++) sums[l][0] = _mm512_setzero_ps();
  for (size_t i = 0; i < w->columns; i += 128, x += 128) {
#pragma clang loop unroll(full)
    for (int l = 0; l < n; l++) {
      const uint8_t *codes = at[l].codes + i / 2;
      __builtin_prefetch(codes + 8192);
      __m512i index = _mm512_loadu_si512(codes);
      __m512 s[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
#pragma clang loop unroll(full)
      for (unsigned t = 0; t < 4; t++) {
        __m512i v = _mm512_permutexvar_epi16(_mm512_srli_epi16(index, 4 * t), table);
        s[t % 2] = _mm512_dpbf16_ps(s[t % 2], (__m512bh)v, (__m512bh)_mm512_loadu_si512(x + 32 * t));
      }
      sums[l][0] = _mm512_fmadd_ps(_mm512_add_ps(s[0], s[1]), scales_of_lanes(w, at + l), sums[l][0]);
    }
  }
}

/// What rows_by_lanes16 reads, from what rows_by_lanes reads.
AVX512BF16_INLINE void halves_of_lanes(const float *lanes, size_t k, uint16_t *out) {
  const __m512i turn = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                        19, 3, 18, 2, 17, 1, 16, 0);
  for (size_t i = 0; i < k; i += 128)
    for (size_t t = 0; t < 4; t++) {
      __m512 low = _mm512_loadu_ps(lanes + i + 16 * t), high = _mm512_loadu_ps(lanes + i + 16 * t + 64);
      _mm512_storeu_si512(out + i + 32 * t, _mm512_permutexvar_epi16(turn, (__m512i)_mm512_cvtne2ps_pbh(high, low)));
    }
}

TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  if (m == 1) rows_by_lanes16(n, few, j, sums);
  else if (nibble_has_blocks(w) && !(w->columns % 64 || w->block % 64)) rows_of_codes16(m, n, few, j, sums);
  else rows_of_others(m, n, few, j, sums);
}

/// One row is packed for float32, too: only some matrices have codes it can take by lanes.
static size_t packed_bytes(size_t m, size_t k) {
  if (m == 1) return nibble_avx512_few.packed_bytes(m, k) + 2 * lanes_stride(k);
  return few_packed_bytes(m, k) + 2 * m * halves_stride(k);
}

AVX512BF16 static void pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  if (m == 1) {
    nibble_avx512_few.pack(x, m, k, stride, packed);
    const float *more = (const float *)((const char *)packed + few_packed_bytes(m, k));
    if (k % 128 == 0) halves_of_lanes(more + lanes_offset(k), k, (uint16_t *)((char *)packed + nibble_avx512_few.packed_bytes(m, k)));
    return;
  }
  uint16_t *more = (uint16_t *)((char *)packed + few_packed_bytes(m, k));
  few_pack(x, m, k, stride, packed);
  for (size_t i = 0; i < m; i++) split_halves(x + i * stride, k, more + i * halves_stride(k));
}

AVX512BF16 static void multiply(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                                float *y, size_t stride, void *scratch) {
  if (m > 1) {
    few_multiply(w, packed, m, first, count, add, y, stride, scratch);
  } else if (nibble_has_blocks(w) && by_lanes(w)) {
    few_product few = few_of(w, packed, m, scratch);
    few.more = (const char *)packed + nibble_avx512_few.packed_bytes(m, w->columns);
    few_loop(1, &few, first, count, add, y, stride);
  } else {
    nibble_avx512_few.multiply(w, packed, m, first, count, add, y, stride, scratch);
  }
}

const nibble_few_products nibble_avx512bf16_few = {
    .most = FEW_MOST, .packed_bytes = packed_bytes, .pack = pack, .scratch = few_scratch, .multiply = multiply,
    .multiply_transposed = few_transposed};

#endif
