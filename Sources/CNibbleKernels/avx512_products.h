// Registers of floats for the shared loops of products, AVX-512.

#ifndef NIBBLE_AVX512_PRODUCTS_H
#define NIBBLE_AVX512_PRODUCTS_H

#include "avx512.h"
#include "products.h"

#define WIDTH 16
#define TILE 12
#define VEC_LOAD(p) _mm512_loadu_ps(p)
#define VEC_STORE(p, v) _mm512_storeu_ps(p, v)
#define VEC_ADD(a, b) _mm512_add_ps(a, b)

typedef __m512 vec;

/// Transposes 16 registers of 16.
AVX512_INLINE void turn16(__m512 v[16]) {
  __m512 t[16];
#pragma clang loop unroll(full)
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 16; i += 4)
#pragma clang loop unroll(full)
    for (int h = 0; h < 2; h++) {
      __m512d a = _mm512_castps_pd(t[i + h]), b = _mm512_castps_pd(t[i + h + 2]);
      v[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      v[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  // v[4 g + c] now holds column c of every quarter for rows 4 g ... 4 g + 3.
#pragma clang loop unroll(full)
  for (int c = 0; c < 4; c++) {
    __m512 low0 = _mm512_shuffle_f32x4(v[c], v[4 + c], 0x88), high0 = _mm512_shuffle_f32x4(v[c], v[4 + c], 0xdd);
    __m512 low1 = _mm512_shuffle_f32x4(v[8 + c], v[12 + c], 0x88), high1 = _mm512_shuffle_f32x4(v[8 + c], v[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(low0, low1, 0x88);
    t[c + 8] = _mm512_shuffle_f32x4(low0, low1, 0xdd);
    t[c + 4] = _mm512_shuffle_f32x4(high0, high1, 0x88);
    t[c + 12] = _mm512_shuffle_f32x4(high0, high1, 0xdd);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 16; i++) v[i] = t[i];
}
#define TURN(v) turn16(v)

/// Rounds to bfloat16, nearest even; NaN stays.
AVX512_INLINE __m512 round_bf16(__m512 x) {
  __m512i bits = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_castsi512_ps(_mm512_and_si512(r, _mm512_set1_epi32((int)0xffff0000u)));
}

#endif
