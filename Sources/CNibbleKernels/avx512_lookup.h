// Weights from codes with AVX-512, for products: as avx512_decode.c does it, but from any even element on, never reading
// past the last code, and with the scales of double quantization restored on the way.

#ifndef NIBBLE_AVX512_LOOKUP_H
#define NIBBLE_AVX512_LOOKUP_H

#include "avx512_products.h"

#pragma STDC FP_CONTRACT OFF

/// A mask's `n` lowest bits.
#define NIBBLE_MASK(n) ((n) >= 64 ? ~0ull : (1ull << (n)) - 1)

/// map[code] for 16 codes. Loads of single floats would cost more than looking everywhere: eight permutes of 32 entries and
/// a choice by the upper three bits.
AVX512_INLINE __m512 lookup_scales(const float *map, __m128i codes) {
  __m512i index = _mm512_cvtepu8_epi32(codes);
  __m512 r[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++)
    r[i] = _mm512_permutex2var_ps(_mm512_loadu_ps(map + 32 * i), index, _mm512_loadu_ps(map + 32 * i + 16));
#pragma clang loop unroll(full)
  for (int bit = 0; bit < 3; bit++) {
    __mmask16 set = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32 << bit));
#pragma clang loop unroll(full)
    for (int i = 0; i < 8; i += 2 << bit) r[i] = _mm512_mask_blend_ps(set, r[i], r[i + (1 << bit)]);
  }
  return r[0];
}

/// nibble_matrix_scales.
AVX512_INLINE void scales_avx512(const nibble_matrix *w, size_t first, size_t n, float *scales) {
  if (w->scales) {
    memcpy(scales, (const char *)w->scales + 4 * first, 4 * n);
    return;
  }
  __m512 offset = _mm512_set1_ps(w->offset);
  size_t within, nested = nibble_divide(first, w->nested_block, &within), left = w->nested_block - within;
  for (; n; nested++, left = w->nested_block) {
    size_t part = n < left ? n : left;
    float nested_scale = nibble_load_f32(w->nested_scales, nested);
    if (part <= 8) {
      for (size_t i = 0; i < part; i++) {
        float product = w->scale_map[w->scale_codes[first + i]] * nested_scale;
        scales[i] = product + w->offset;
      }
      first += part, scales += part, n -= part;
      continue;
    }
    __m512 scale = _mm512_set1_ps(nested_scale);
    for (size_t i = 0; i < part; i += 16) {
      __mmask16 mask = part - i < 16 ? (__mmask16)((1u << (part - i)) - 1) : 0xffff;
      __m512 v = lookup_scales(w->scale_map, _mm_maskz_loadu_epi8(mask, w->scale_codes + first + i));
      _mm512_mask_storeu_ps(scales + i, mask, _mm512_add_ps(_mm512_mul_ps(v, scale), offset));
    }
    first += part, scales += part, n -= part;
  }
}

/// Table entries of the 16 elements whose codes are the lower, or else the `upper`, 8 bytes of `codes`.
AVX512_INLINE __m512 lookup_f32(__m512 table, __m128i codes, const int upper) {
  // Each byte of codes into two 32-bit lanes; the first element is the upper nibble.
  const __m512i spread = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i shifts = _mm512_setr_epi32(4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0);
  __m512i from = _mm512_add_epi32(spread, _mm512_set1_epi32(upper ? 0x08080808 : 0));
  __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codes), from);
  // The permute reads the low four bits of an index only.
  return _mm512_permutexvar_ps(_mm512_srlv_epi32(bytes, shifts), table);
}

/// Table entries, twice 16 of 16 bits, of the 32 elements whose codes are the 16 bytes of `codes`.
AVX512_INLINE __m512i lookup_16(__m512i table, __m128i codes) {
  const __m512i spread = _mm512_setr_epi32(
      (int)0x80008000, (int)0x80018001, (int)0x80028002, (int)0x80038003, (int)0x80048004, (int)0x80058005, (int)0x80068006, (int)0x80078007, (int)0x80088008, (int)0x80098009, (int)0x800a800a, (int)0x800b800b, (int)0x800c800c, (int)0x800d800d, (int)0x800e800e, (int)0x800f800f);
  __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codes), spread);
  return _mm512_permutexvar_epi16(_mm512_srlv_epi16(bytes, _mm512_set1_epi32(4)), table);
}

/// 16 pairs of entries: the first by the 8 bytes of `low` in the table's first half, the second by those of `high` in its
/// second half.
AVX512_INLINE __m512i lookup_pairs(__m512i table, __m128i low, __m128i high) {
  // A lane of four bytes: the byte of `low`, nothing, the byte of `high`, nothing.
  const __m512i spread = _mm512_setr_epi32(
      (int)0x80088000, (int)0x80088000, (int)0x80098001, (int)0x80098001, (int)0x800a8002, (int)0x800a8002, (int)0x800b8003,
      (int)0x800b8003, (int)0x800c8004, (int)0x800c8004, (int)0x800d8005, (int)0x800d8005, (int)0x800e8006, (int)0x800e8006,
      (int)0x800f8007, (int)0x800f8007);
  const __m512i shifts = _mm512_setr_epi32(0x40004, 0, 0x40004, 0, 0x40004, 0, 0x40004, 0, 0x40004, 0, 0x40004, 0, 0x40004, 0,
                                           0x40004, 0);
  __m512i bytes = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_unpacklo_epi64(low, high)), spread);
  __m512i index = _mm512_srlv_epi16(bytes, shifts);
  // (index & 15) | the half
  index = _mm512_ternarylogic_epi32(index, _mm512_set1_epi32(0xf000f), _mm512_set1_epi32(0x100000), 0xea);
  return _mm512_permutexvar_epi16(index, table);
}

/// `n` weights from `element` on, exact or rounded to bfloat16; fewer than a panel is deep or wide.
AVX512_INLINE void decode_floats(const int rounds, const nibble_matrix *w, size_t element, size_t n, float *out) {
  float scales[nibble_panel + nibble_depth];
  if (!nibble_has_blocks(w) || element & 1) {
    nibble_matrix_run(&nibble_avx512_kernels, w, element, n, nibble_f32, out);
    for (size_t i = 0; rounds && i < n; i++) out[i] = nibble_from_bf16(nibble_to_bf16(out[i]));
    return;
  }
  size_t within, block = nibble_divide(element, w->block, &within);
  scales_avx512(w, block, nibble_blocks(w, within + n), scales);
  const uint8_t *codes = (const uint8_t *)w->data + element / 2;
  __m512 book = _mm512_loadu_ps(w->codebook);
  for (const float *scale = scales; n; scale++, within = 0) {
    size_t part = w->block - within, i = 0;
    part = part < n ? part : n;
    __m512 table = _mm512_mul_ps(book, _mm512_set1_ps(*scale));
    if (rounds) table = round_bf16(table);
    for (; i + 32 <= part; i += 32) {
      __m128i bytes = _mm_loadu_si128((const void *)(codes + i / 2));
      _mm512_storeu_ps(out + i, lookup_f32(table, bytes, 0));
      _mm512_storeu_ps(out + i + 16, lookup_f32(table, bytes, 1));
    }
    for (; i < part; i += 16) {
      size_t rest = part - i < 16 ? part - i : 16;
      __m128i last = _mm_maskz_loadu_epi8((__mmask16)NIBBLE_MASK((rest + 1) / 2), codes + i / 2);
      _mm512_mask_storeu_ps(out + i, (__mmask16)NIBBLE_MASK(rest), lookup_f32(table, last, 0));
    }
    codes += part / 2, out += part, n -= part;
  }
}

#endif
