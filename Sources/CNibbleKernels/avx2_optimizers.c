// The optimizers compiled for AVX2, with its lookup among eight numbers.

#if defined(__x86_64__)

#include "avx2.h"

#define WIDE_TARGET AVX2
#define WIDE_OWN_LOOKUP

typedef float wide __attribute__((vector_size(64)));
typedef int32_t wide_i __attribute__((vector_size(64)));

AVX2_INLINE wide wide_lookup(const float table[8], wide_i index) {
  __m256 entries = _mm256_loadu_ps(table);
  __m256i low = (__m256i)__builtin_shufflevector(index, index, 0, 1, 2, 3, 4, 5, 6, 7);
  __m256i high = (__m256i)__builtin_shufflevector(index, index, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(
      _mm256_permutevar8x32_ps(entries, low), _mm256_permutevar8x32_ps(entries, high), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

#include "optimizers_loops.h"

const nibble_optimizers nibble_avx2_optimizers = NIBBLE_OPTIMIZERS_TABLE;

#endif
