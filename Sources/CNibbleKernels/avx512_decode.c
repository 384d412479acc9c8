// AVX-512 decode: a block's 16 possible elements stay in a register, and a permute looks them up.

#if defined(__x86_64__)

#include "avx512.h"
#include "decode.h"

#pragma STDC FP_CONTRACT OFF

/// Rounds like nibble_to_bf16; the hardware's own conversion would flush subnormals.
AVX512_INLINE __m256i to_bf16(__m512 x) {
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}

AVX512_INLINE void decode16(__m256i table16, const uint8_t *codes, size_t count, char *out) {
  // The permute reads five bits of an index: with the table twice, the fifth does not matter.
  __m512i table = _mm512_broadcast_i64x4(table16);
  // Each byte of codes into both halves of a 32-bit lane; the first element is the upper nibble.
  const __m512i spread = _mm512_setr_epi32(0x80008000, 0x80018001, 0x80028002, 0x80038003, 0x80048004,
                                           0x80058005, 0x80068006, 0x80078007, 0x80088008, 0x80098009,
                                           0x800a800a, 0x800b800b, 0x800c800c, 0x800d800d, 0x800e800e,
                                           0x800f800f);
  const __m512i shifts = _mm512_set1_epi32(4);
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m512i bytes = _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)(codes + i / 2)));
    __m512i index = _mm512_srlv_epi16(_mm512_shuffle_epi8(bytes, spread), shifts);
    _mm512_storeu_si512(out + 2 * i, _mm512_permutexvar_epi16(index, table));
  }
  if (i == count) return;
  nibble_table t;
  _mm256_storeu_si256((void *)t.u16, table16);
  nibble_decode_rest16(t.u16, codes, i, count, out);
}

AVX512_INLINE void decode32(__m512 table, const uint8_t *codes, size_t count, char *out) {
  const __m512i shifts = _mm512_setr_epi32(4, 0, 12, 8, 20, 16, 28, 24, 4, 0, 12, 8, 20, 16, 28, 24);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m512i bytes = _mm512_set1_epi32((int)nibble_load32(codes + i / 2, 0));
    bytes = _mm512_mask_set1_epi32(bytes, 0xff00, (int)nibble_load32(codes + i / 2, 1));
    // The permute reads the low four bits of an index only.
    _mm512_storeu_ps(out + 4 * i, _mm512_permutexvar_ps(_mm512_srlv_epi32(bytes, shifts), table));
  }
  if (i == count) return;
  nibble_table t;
  _mm512_storeu_ps(t.f32, table);
  nibble_decode_rest32(t.f32, codes, i, count, out);
}

AVX512_INLINE void decode_number(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                                 const float *absmax, int number, char *out) {
  __m512 book = _mm512_loadu_ps(codebook);
  size_t size = nibble_number_size((nibble_number)number), b = 0;
  for (; count; b++) {
    size_t n = count < block ? count : block;
    __m512 table = _mm512_mul_ps(book, _mm512_set1_ps(nibble_load_f32(absmax, b)));
    if (number == nibble_f32) decode32(table, codes, n, out);
    else if (number == nibble_f16) decode16(_mm512_cvtps_ph(table, _MM_FROUND_TO_NEAREST_INT), codes, n, out);
    else decode16(to_bf16(table), codes, n, out);
    codes += n / 2;
    out += n * size;
    count -= n;
  }
}

AVX512 void nibble_decode_avx512(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                                 const float *absmax, nibble_number number, void *out) {
  if (number == nibble_f32) decode_number(codebook, codes, count, block, absmax, nibble_f32, out);
  if (number == nibble_f16) decode_number(codebook, codes, count, block, absmax, nibble_f16, out);
  if (number == nibble_bf16) decode_number(codebook, codes, count, block, absmax, nibble_bf16, out);
}

#endif
