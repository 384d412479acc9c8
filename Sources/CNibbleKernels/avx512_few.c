// Products of few rows with AVX-512 in float32. (Where bfloat16 is asked for, they keep more than that.)

#if defined(__x86_64__)

#include "avx512.h"

#define FEW_MOST 10
#define FEW_PAIRS 10
#define TARGET AVX512
#include "avx512_few.h"

/// One row of x. A register of codes is eight registers of indices, made by shifts only: every lane holds eight neighbouring
/// elements. Blocks end within the register, so what a lane has summed up is scaled afterwards.
AVX512_INLINE void rows_by_lanes(const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  const float *x = (const float *)few->more + lanes_offset(w->columns);
  few_codes at[2];
  __m512 book = _mm512_loadu_ps(w->codebook);
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
      for (unsigned t = 0; t < 8; t++) {
        // The permute reads the low four bits of an index only.
        __m512 v = _mm512_permutexvar_ps(_mm512_srli_epi32(index, 4 * t), book);
        s[t % 2] = t < 2 ? _mm512_mul_ps(v, _mm512_loadu_ps(x + 16 * t)) : _mm512_fmadd_ps(v, _mm512_loadu_ps(x + 16 * t), s[t % 2]);
      }
      sums[l][0] = _mm512_fmadd_ps(_mm512_add_ps(s[0], s[1]), scales_of_lanes(w, at + l), sums[l][0]);
    }
  }
}

TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  if (m == 1 && nibble_has_blocks(w) && by_lanes(w)) rows_by_lanes(n, few, j, sums);
  else if (nibble_has_blocks(w) && !(w->columns % 32 || w->block % 32)) rows_of_codes(m, n, few, j, sums);
  else rows_of_others(m, n, few, j, sums);
}

AVX512 static size_t packed_bytes(size_t m, size_t k) {
  return few_packed_bytes(m, k) + 4 * (m * split_stride(k) + (m == 1 ? lanes_stride(k) : 0));
}

AVX512 static void pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  float *more = (float *)((char *)packed + few_packed_bytes(m, k)), *lanes = more + lanes_offset(k);
  few_pack(x, m, k, stride, packed);
  for (size_t i = 0; i < m; i++) split_floats(x + i * stride, k, more + i * split_stride(k));
  if (m > 1 || k % 128) return;
  for (size_t i = 0; i < k; i += 128)
    for (size_t t = 0; t < 8; t++)  // the low nibble of a byte is the later element
      for (size_t l = 0; l < 16; l++) lanes[i + 16 * t + l] = x[i + 8 * l + (t ^ 1)];
}

const nibble_few_products nibble_avx512_few = {
    .most = FEW_MOST, .packed_bytes = packed_bytes, .pack = pack, .scratch = few_scratch, .multiply = few_multiply,
    .multiply_transposed = few_transposed};

#endif
