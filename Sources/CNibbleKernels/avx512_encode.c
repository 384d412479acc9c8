// AVX-512 encode kernel: 32 elements a step, split into even and odd ones, so that a byte of codes is one
// 32-bit lane of each.

#if defined(__x86_64__)

#include "avx512_code.h"

#pragma STDC FP_CONTRACT OFF

AVX512_INLINE void split(__m512 a, __m512 b, __m512 *even, __m512 *odd) {
  const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  *even = _mm512_permutex2var_ps(a, e, b);
  *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, _mm512_set1_epi32(1)), b);
}

AVX512_INLINE void load32(int number, const char *x, __m512 *even, __m512 *odd) {
  if (number == nibble_bf16) {
    __m512i v = _mm512_loadu_si512(x);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
  } else if (number == nibble_f16) {
    split(_mm512_cvtph_ps(_mm256_loadu_si256((const void *)x)),
          _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(x + 32))), even, odd);
  } else {
    split(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 64), even, odd);
  }
}

/// The sums of the three vectors' lanes, in the lowest lanes of the result.
AVX512_INLINE __m128 sum3(__m512 a, __m512 b, __m512 c) {
  __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  __m512 cc = _mm512_add_ps(c, _mm512_shuffle_f32x4(c, c, 0xee));
  __m512 abc = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cc, 0x88), _mm512_shuffle_f32x4(ab, cc, 0xdd));
  abc = _mm512_add_ps(abc, _mm512_permute_ps(abc, 0x4e));
  abc = _mm512_add_ps(abc, _mm512_permute_ps(abc, 0xb1));
  const __m512i heads = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
  return _mm512_castps512_ps128(_mm512_permutexvar_ps(heads, abc));
}

AVX512_INLINE void encode_loop(const nibble_encode_job *job, int nf4, int number, int clamp, size_t block,
                               const char *x, size_t blocks, const float *inverse, uint8_t *codes,
                               float *moments) {
  const avx512_tables t = avx512_make_tables(nf4, job->cpu_ties);
  size_t step = 32 * nibble_number_size((nibble_number)number);
  for (size_t b = 0; b < blocks; b++) {
    __m512 scale = _mm512_set1_ps(inverse[b]);
    __m512 ee = _mm512_setzero_ps(), eq = ee, qq = ee;
    for (size_t i = 0; i < block; i += 32, x += step, codes += 16) {
      __m512 even, odd, q0, q1;
      load32(number, x, &even, &odd);
      even = _mm512_mul_ps(even, scale);
      odd = _mm512_mul_ps(odd, scale);
      __m512i high = avx512_codes(&t, nf4, clamp, even, &q0), low = avx512_codes(&t, nf4, clamp, odd, &q1);
      __m512i both = _mm512_or_si512(_mm512_slli_epi32(high, 4), low);
      _mm_storeu_si128((void *)codes, _mm512_cvtepi32_epi8(both));
      __m512 e0 = _mm512_sub_ps(even, q0), e1 = _mm512_sub_ps(odd, q1);
      ee = _mm512_fmadd_ps(e1, e1, _mm512_fmadd_ps(e0, e0, ee));
      eq = _mm512_fmadd_ps(e1, q1, _mm512_fmadd_ps(e0, q0, eq));
      qq = _mm512_fmadd_ps(q1, q1, _mm512_fmadd_ps(q0, q0, qq));
    }
    if (moments) _mm_mask_storeu_ps(moments + 3 * b, 7, sum3(ee, eq, qq));
  }
}

// One copy of the loop for each combination that changes its instructions. The common block size is a
// constant, so that its loop unrolls.
AVX512_INLINE void encode_number(const nibble_encode_job *job, int number, const void *x, size_t blocks,
                                 const float *inverse, uint8_t *codes, float *moments) {
  size_t block = job->block;
  if (job->code == nibble_fp4) {
    if (job->clamp) encode_loop(job, 0, number, 1, block, x, blocks, inverse, codes, moments);
    else encode_loop(job, 0, number, 0, block, x, blocks, inverse, codes, moments);
  } else if (job->clamp) {
    encode_loop(job, 1, number, 1, block, x, blocks, inverse, codes, moments);
  } else if (block == 64 && moments) {
    encode_loop(job, 1, number, 0, 64, x, blocks, inverse, codes, moments);
  } else if (moments) {
    encode_loop(job, 1, number, 0, block, x, blocks, inverse, codes, moments);
  } else {
    encode_loop(job, 1, number, 0, block, x, blocks, inverse, codes, 0);
  }
}

AVX512 void nibble_encode_avx512(const nibble_encode_job *job, const void *x, size_t blocks,
                                 const float *inverse, uint8_t *codes, float *moments) {
  switch (job->number) {
    case nibble_f32: encode_number(job, nibble_f32, x, blocks, inverse, codes, moments); break;
    case nibble_f16: encode_number(job, nibble_f16, x, blocks, inverse, codes, moments); break;
    case nibble_bf16: encode_number(job, nibble_bf16, x, blocks, inverse, codes, moments); break;
    default: break;
  }
}

AVX512 void nibble_max_bits_avx512(nibble_number number, const void *x, size_t blocks, size_t block,
                                   uint32_t *bits) {
  if (number == nibble_f32) {
    const char *p = x;
    for (size_t b = 0; b < blocks; b++) {
      const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
      __m512i max = _mm512_setzero_si512(), max1 = max;
      for (size_t i = 0; i < block; i += 32, p += 128) {
        max = _mm512_max_epi32(max, _mm512_and_si512(_mm512_loadu_si512(p), magnitude));
        max1 = _mm512_max_epi32(max1, _mm512_and_si512(_mm512_loadu_si512(p + 64), magnitude));
      }
      bits[b] = (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(max, max1));
    }
    return;
  }
  const char *p = x;
  for (size_t b = 0; b < blocks; b++) {
    __m512i max = _mm512_setzero_si512();
    for (size_t i = 0; i < block; i += 32, p += 64)
      max = _mm512_max_epu16(max, _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi16(0x7fff)));
    __m256i m256 = _mm256_max_epu16(_mm512_castsi512_si256(max), _mm512_extracti64x4_epi64(max, 1));
    __m128i m128 = _mm_max_epu16(_mm256_castsi256_si128(m256), _mm256_extracti128_si256(m256, 1));
    // The one horizontal instruction is a minimum: complement before and after.
    __m128i least = _mm_minpos_epu16(_mm_xor_si128(m128, _mm_set1_epi16(-1)));
    uint16_t top = (uint16_t)~_mm_cvtsi128_si32(least);
    bits[b] = number == nibble_bf16 ? (uint32_t)top << 16 : nibble_bits(nibble_from_f16(top));
  }
}

#endif
