// Registers of floats for the shared loops of products, AVX2.

#ifndef NIBBLE_AVX2_PRODUCTS_H
#define NIBBLE_AVX2_PRODUCTS_H

#include "avx2.h"
#include "products.h"

#define WIDTH 8
#define TILE 6
#define VEC_LOAD(p) _mm256_loadu_ps(p)
#define VEC_STORE(p, v) _mm256_storeu_ps(p, v)
#define VEC_ADD(a, b) _mm256_add_ps(a, b)
#define TARGET AVX2
#define TURN(v) turn8(v)

typedef __m256 vec;

/// Transposes 8 registers of 8.
AVX2_INLINE void turn8(__m256 v[8]) {
  __m256 t[8];
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i += 4)
#pragma clang loop unroll(full)
    for (int h = 0; h < 2; h++) {
      __m256d a = _mm256_castps_pd(t[i + h]), b = _mm256_castps_pd(t[i + h + 2]);
      v[i + 2 * h] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      v[i + 2 * h + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
#pragma clang loop unroll(full)
  for (int c = 0; c < 4; c++) {
    t[c] = _mm256_permute2f128_ps(v[c], v[4 + c], 0x20);
    t[c + 4] = _mm256_permute2f128_ps(v[c], v[4 + c], 0x31);
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < 8; i++) v[i] = t[i];
}

#endif
