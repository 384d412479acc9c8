// Products of few rows with AVX-512 in float32. (Where bfloat16 is asked for, they keep more than that.)

#if defined(__x86_64__)

#include "avx512.h"

#define FEW_MOST 10
#define FEW_PAIRS 10
#define TARGET AVX512
#include "avx512_few.h"

TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  const nibble_matrix *w = few->w;
  if (w->packed && !(w->columns % 32 || w->block % 32)) rows_of_codes(m, n, few, j, sums);
  else rows_of_others(m, n, few, j, sums);
}

AVX512 static size_t packed_bytes(size_t m, size_t k) { return few_packed_bytes(m, k) + 4 * m * split_stride(k); }

AVX512 static void pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  float *more = (float *)((char *)packed + few_packed_bytes(m, k));
  few_pack(x, m, k, stride, packed);
  for (size_t i = 0; i < m; i++) split_floats(x + i * stride, k, more + i * split_stride(k));
}

const nibble_few_products nibble_avx512_few = {
    .most = FEW_MOST, .packed_bytes = packed_bytes, .pack = pack, .scratch = few_scratch, .multiply = few_multiply,
    .multiply_transposed = few_transposed};

#endif
