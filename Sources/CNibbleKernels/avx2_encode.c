// AVX2 encode kernel: 32 elements a step, split into even and odd ones, so that a byte of codes is one
// 32-bit lane of each.

#if defined(__x86_64__)

#include "avx2_code.h"

#pragma STDC FP_CONTRACT OFF

/// 16 elements as eight even and eight odd ones. bf16 keeps their order; the others come as pairs
/// 0, 1, 4, 5, 2, 3, 6, 7.
AVX2_INLINE void load16(int number, const char *x, __m256 *even, __m256 *odd) {
  if (number == nibble_bf16) {
    __m256i v = _mm256_loadu_si256((const void *)x);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
    return;
  }
  __m256 a, b;
  if (number == nibble_f16) {
    a = _mm256_cvtph_ps(_mm_loadu_si128((const void *)x));
    b = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(x + 16)));
  } else {
    a = _mm256_loadu_ps((const void *)x);
    b = _mm256_loadu_ps((const void *)(x + 32));
  }
  *even = _mm256_shuffle_ps(a, b, 0x88);
  *odd = _mm256_shuffle_ps(a, b, 0xdd);
}

/// The 16 low bytes of two vectors, in the order of the elements that load16 gave.
AVX2_INLINE __m128i pack_bytes(int number, __m256i a, __m256i b) {
  const __m256i low = _mm256_set1_epi32(0xff);
  __m256i words = _mm256_packus_epi32(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
  __m256i bytes = _mm256_packus_epi16(words, words);
  __m128i lower = _mm256_castsi256_si128(bytes), upper = _mm256_extracti128_si256(bytes, 1);
  return number == nibble_bf16 ? _mm_unpacklo_epi32(lower, upper) : _mm_unpacklo_epi16(lower, upper);
}

/// Both nibbles of each byte through a table.
AVX2_INLINE __m128i map_nibbles(__m128i table, __m128i bytes) {
  const __m128i low = _mm_set1_epi8(15);
  __m128i upper = _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), low));
  return _mm_or_si128(_mm_slli_epi16(upper, 4), _mm_shuffle_epi8(table, _mm_and_si128(bytes, low)));
}

/// The sums of each vector's lanes.
AVX2_INLINE void store_sums(float *out, __m256 a, __m256 b, __m256 c) {
  __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, c));
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
  _mm_storel_pi((__m64 *)out, r);
  _mm_store_ss(out + 2, _mm_movehl_ps(r, r));
}

AVX2_INLINE void encode_loop(const nibble_encode_job *job, int nf4, int number, int clamp, const char *x,
                             size_t blocks, const float *inverse, uint8_t *codes, float *moments) {
  const avx2_tables t = avx2_make_tables(nf4, job->cpu_ties);
  const __m128i fp4_codes =
      _mm_loadu_si128((const void *)(job->cpu_ties ? nibble_fp4_cpu_codes : nibble_fp4_cuda_codes));
  size_t block = job->block, half = 16 * nibble_number_size((nibble_number)number);
  for (size_t b = 0; b < blocks; b++) {
    __m256 scale = _mm256_set1_ps(inverse[b]);
    __m256 ee = _mm256_setzero_ps(), eq = ee, qq = ee;
    for (size_t i = 0; i < block; i += 32, codes += 16) {
      __m256i both[2];
#pragma clang loop unroll(full)
      for (int h = 0; h < 2; h++, x += half) {
        __m256 even, odd, q0, q1;
        load16(number, x, &even, &odd);
        even = _mm256_mul_ps(even, scale);
        odd = _mm256_mul_ps(odd, scale);
        __m256i upper = avx2_codes(&t, nf4, clamp, even, &q0), lower = avx2_codes(&t, nf4, clamp, odd, &q1);
        both[h] = _mm256_or_si256(_mm256_slli_epi32(upper, 4), lower);
        __m256 e0 = _mm256_sub_ps(even, q0), e1 = _mm256_sub_ps(odd, q1);
        ee = _mm256_fmadd_ps(e1, e1, _mm256_fmadd_ps(e0, e0, ee));
        eq = _mm256_fmadd_ps(e1, q1, _mm256_fmadd_ps(e0, q0, eq));
        qq = _mm256_fmadd_ps(q1, q1, _mm256_fmadd_ps(q0, q0, qq));
      }
      __m128i bytes = pack_bytes(number, both[0], both[1]);
      _mm_storeu_si128((void *)codes, nf4 ? bytes : map_nibbles(fp4_codes, bytes));
    }
    if (moments) store_sums(moments + 3 * b, ee, eq, qq);
  }
}

// One copy of the loop for each combination that changes its instructions.
AVX2_INLINE void encode_number(const nibble_encode_job *job, int number, const void *x, size_t blocks,
                               const float *inverse, uint8_t *codes, float *moments) {
  if (job->code == nibble_fp4) {
    if (job->clamp) encode_loop(job, 0, number, 1, x, blocks, inverse, codes, moments);
    else encode_loop(job, 0, number, 0, x, blocks, inverse, codes, moments);
  } else if (job->clamp) {
    encode_loop(job, 1, number, 1, x, blocks, inverse, codes, moments);
  } else if (moments) {
    encode_loop(job, 1, number, 0, x, blocks, inverse, codes, moments);
  } else {
    encode_loop(job, 1, number, 0, x, blocks, inverse, codes, 0);
  }
}

AVX2 void nibble_encode_avx2(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                             uint8_t *codes, float *moments) {
  switch (job->number) {
    case nibble_f32: encode_number(job, nibble_f32, x, blocks, inverse, codes, moments); break;
    case nibble_f16: encode_number(job, nibble_f16, x, blocks, inverse, codes, moments); break;
    case nibble_bf16: encode_number(job, nibble_bf16, x, blocks, inverse, codes, moments); break;
    default: break;
  }
}

AVX2 void nibble_max_bits_avx2(nibble_number number, const void *x, size_t blocks, size_t block,
                               uint32_t *bits) {
  const char *p = x;
  for (size_t b = 0; b < blocks; b++) {
    __m256i max = _mm256_setzero_si256(), max1 = max;
    if (number == nibble_f32) {
      const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
      for (size_t i = 0; i < block; i += 16, p += 64) {
        max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_loadu_si256((const void *)p), magnitude));
        max1 = _mm256_max_epi32(max1, _mm256_and_si256(_mm256_loadu_si256((const void *)(p + 32)), magnitude));
      }
      max = _mm256_max_epi32(max, max1);
      __m128i m = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
      m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
      m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
      bits[b] = (uint32_t)_mm_cvtsi128_si32(m);
      continue;
    }
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    for (size_t i = 0; i < block; i += 32, p += 64) {
      max = _mm256_max_epu16(max, _mm256_and_si256(_mm256_loadu_si256((const void *)p), magnitude));
      max1 = _mm256_max_epu16(max1, _mm256_and_si256(_mm256_loadu_si256((const void *)(p + 32)), magnitude));
    }
    max = _mm256_max_epu16(max, max1);
    __m128i m = _mm_max_epu16(_mm256_castsi256_si128(max), _mm256_extracti128_si256(max, 1));
    // The one horizontal instruction is a minimum: complement before and after.
    m = _mm_minpos_epu16(_mm_xor_si128(m, _mm_set1_epi16(-1)));
    uint16_t top = (uint16_t)~_mm_cvtsi128_si32(m);
    bits[b] = number == nibble_bf16 ? (uint32_t)top << 16 : nibble_bits(nibble_from_f16(top));
  }
}

#endif
