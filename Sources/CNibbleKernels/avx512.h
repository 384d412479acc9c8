// What the AVX-512 files share.

#ifndef NIBBLE_AVX512_H
#define NIBBLE_AVX512_H

#include <immintrin.h>

#include "internal.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define AVX512_INLINE static inline __attribute__((always_inline)) AVX512

void nibble_max_bits_avx512(nibble_number number, const void *x, size_t blocks, size_t block, uint32_t *bits);
void nibble_encode_avx512(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                          uint8_t *codes, float *moments);
void nibble_decode_avx512(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                          const float *absmax, nibble_number number, void *out);
void nibble_search_avx512(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales);

#endif
