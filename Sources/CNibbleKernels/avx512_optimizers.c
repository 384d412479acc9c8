// The optimizers compiled for AVX-512, with its lookup.

#if defined(__x86_64__)

#include "avx512.h"

#define WIDE_TARGET AVX512
#define WIDE_OWN_LOOKUP

typedef float wide __attribute__((vector_size(64)));
typedef int32_t wide_i __attribute__((vector_size(64)));

AVX512_INLINE wide wide_lookup(const float table[8], wide_i index) {
  // The table twice, because four bits of an index count.
  __m512 entries = _mm512_broadcast_f32x8(_mm256_loadu_ps(table));
  return (wide)_mm512_permutexvar_ps((__m512i)index, entries);
}

#include "optimizers_loops.h"

const nibble_optimizers nibble_avx512_optimizers = NIBBLE_OPTIMIZERS_TABLE;

#endif
