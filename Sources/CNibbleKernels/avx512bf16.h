// What the files for the bfloat16 instructions of AVX-512 share.

#ifndef NIBBLE_AVX512BF16_H
#define NIBBLE_AVX512BF16_H

#define AVX512BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")))
#define AVX512BF16_INLINE static inline __attribute__((always_inline)) AVX512BF16

#include "avx512_lookup.h"

/// The table of 32 16-bit entries for two scales (or one, twice): codebook * scale, rounded.
AVX512BF16_INLINE __m512i table_of(__m512 book, float first, float second) {
  __m512 low = _mm512_mul_ps(book, _mm512_set1_ps(first)), high = _mm512_mul_ps(book, _mm512_set1_ps(second));
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

#endif
