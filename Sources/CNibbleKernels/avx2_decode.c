// AVX2 decode: byte shuffles look up the two bytes of 16-bit elements, permutes the halves of a float table.

#if defined(__x86_64__)

#include "avx2.h"
#include "decode.h"

#pragma STDC FP_CONTRACT OFF

/// Rounds like nibble_to_bf16, into the low halves of the lanes.
AVX2_INLINE __m256i to_bf16(__m256 x) {
  __m256i bits = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
}

/// A table of 16 16-bit elements from its two halves as float32.
AVX2_INLINE __m256i table16(int number, __m256 low, __m256 high) {
  if (number == nibble_f16)
    return _mm256_set_m128i(_mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(to_bf16(low), to_bf16(high)), 0xd8);
}

AVX2_INLINE void decode16(__m256i table, const uint8_t *codes, size_t count, char *out) {
  const __m256i nibble = _mm256_set1_epi8(15);
  // The table's lower bytes and its upper bytes, each in both lanes.
  __m256i planes = _mm256_shuffle_epi8(
      table, _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12, 14,
                              1, 3, 5, 7, 9, 11, 13, 15));
  __m256i lower = _mm256_permute4x64_epi64(planes, 0x88), upper = _mm256_permute4x64_epi64(planes, 0xdd);
  // Two unpacks within lanes follow: this order of the input makes every result 32 neighbouring bytes.
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  size_t i = 0;
  for (; i + 64 <= count; i += 64, codes += 32, out += 128) {
    __m256i c = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const void *)codes), order);
    __m256i first = _mm256_and_si256(_mm256_srli_epi16(c, 4), nibble), second = _mm256_and_si256(c, nibble);
    __m256i n0 = _mm256_unpacklo_epi8(first, second), n1 = _mm256_unpackhi_epi8(first, second);
    __m256i l0 = _mm256_shuffle_epi8(lower, n0), u0 = _mm256_shuffle_epi8(upper, n0);
    __m256i l1 = _mm256_shuffle_epi8(lower, n1), u1 = _mm256_shuffle_epi8(upper, n1);
    _mm256_storeu_si256((void *)out, _mm256_unpacklo_epi8(l0, u0));
    _mm256_storeu_si256((void *)(out + 32), _mm256_unpackhi_epi8(l0, u0));
    _mm256_storeu_si256((void *)(out + 64), _mm256_unpacklo_epi8(l1, u1));
    _mm256_storeu_si256((void *)(out + 96), _mm256_unpackhi_epi8(l1, u1));
  }
  if (i + 32 <= count) {
    __m128i c = _mm_loadu_si128((const void *)codes), low = _mm_set1_epi8(15);
    __m128i first = _mm_and_si128(_mm_srli_epi16(c, 4), low), second = _mm_and_si128(c, low);
    __m256i n = _mm256_set_m128i(_mm_unpackhi_epi8(first, second), _mm_unpacklo_epi8(first, second));
    __m256i l = _mm256_shuffle_epi8(lower, n), u = _mm256_shuffle_epi8(upper, n);
    __m256i r0 = _mm256_unpacklo_epi8(l, u), r1 = _mm256_unpackhi_epi8(l, u);
    _mm256_storeu_si256((void *)out, _mm256_permute2x128_si256(r0, r1, 0x20));
    _mm256_storeu_si256((void *)(out + 32), _mm256_permute2x128_si256(r0, r1, 0x31));
    i += 32, codes += 16, out += 64;
  }
  if (i == count) return;
  nibble_table t;
  _mm256_storeu_si256((void *)t.u16, table);
  nibble_decode_rest16(t.u16, codes, 0, count - i, out);
}

AVX2_INLINE void decode32(__m256 low, __m256 high, const uint8_t *codes, size_t count, char *out) {
  const __m256i shifts = _mm256_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24);
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256i index = _mm256_srlv_epi32(_mm256_set1_epi32((int)nibble_load32(codes + i / 2, 0)), shifts);
    __m256 l = _mm256_permutevar8x32_ps(low, index), h = _mm256_permutevar8x32_ps(high, index);
    __m256 choice = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
    _mm256_storeu_ps((void *)(out + 4 * i), _mm256_blendv_ps(l, h, choice));
  }
  if (i == count) return;
  nibble_table t;
  _mm256_storeu_ps(t.f32, low);
  _mm256_storeu_ps(t.f32 + 8, high);
  nibble_decode_rest32(t.f32, codes, i, count, out);
}

AVX2_INLINE void decode_number(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                               const float *absmax, int number, char *out) {
  __m256 book0 = _mm256_loadu_ps(codebook), book1 = _mm256_loadu_ps(codebook + 8);
  size_t size = nibble_number_size((nibble_number)number), b = 0;
  for (; count; b++) {
    size_t n = count < block ? count : block;
    __m256 scale = _mm256_set1_ps(nibble_load_f32(absmax, b));
    __m256 low = _mm256_mul_ps(book0, scale), high = _mm256_mul_ps(book1, scale);
    if (number == nibble_f32) decode32(low, high, codes, n, out);
    else decode16(table16(number, low, high), codes, n, out);
    codes += n / 2;
    out += n * size;
    count -= n;
  }
}

AVX2 void nibble_decode_avx2(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                             const float *absmax, nibble_number number, void *out) {
  if (number == nibble_f32) decode_number(codebook, codes, count, block, absmax, nibble_f32, out);
  if (number == nibble_f16) decode_number(codebook, codes, count, block, absmax, nibble_f16, out);
  if (number == nibble_bf16) decode_number(codebook, codes, count, block, absmax, nibble_bf16, out);
}

#endif
