// What the AVX2 files share.

#ifndef NIBBLE_AVX2_H
#define NIBBLE_AVX2_H

#include <immintrin.h>

#include "internal.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE static inline __attribute__((always_inline)) AVX2

void nibble_max_bits_avx2(nibble_number number, const void *x, size_t blocks, size_t block, uint32_t *bits);
void nibble_encode_avx2(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                        uint8_t *codes, float *moments);
void nibble_decode_avx2(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                        const float *absmax, nibble_number number, void *out);
void nibble_search_avx2(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales);

#endif
