// The optimizers compiled for AVX-512, with states that are looked up in registers.

#if defined(__x86_64__)

#include "avx512_lookup.h"

#define WIDE_TARGET AVX512
#define WIDE_OWN_STATES

#include "optimizers_loops.h"

AVX512_INLINE __mmask16 lanes_of(size_t left) { return left < 16 ? (__mmask16)((1u << left) - 1) : 0xffff; }

AVX512 static void decode_block(const nibble_state_map *map, const uint8_t *codes, size_t n, float absmax, float *out) {
  __m512 scale = _mm512_set1_ps(absmax);
  for (size_t i = 0; i < n; i += 16) {
    __mmask16 mask = lanes_of(n - i);
    __m512 value = lookup_scales(map->values, _mm_maskz_loadu_epi8(mask, codes + i));
    _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(value, scale));
  }
}

AVX512_INLINE __m512 two_of(const float *table, __m512i index) {
  return _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
}

/// Thresholds of level `level` of the search.
AVX512_INLINE __m512 level_of(const nibble_state_map *map, const int level, __m512i index) {
  const float *table = map->levels[level];
  if (level < 5) return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
  __m512 a = two_of(table, index);
  if (level == 5) return a;
  __mmask16 odd = _mm512_test_epi32_mask(index, _mm512_set1_epi32(32));
  a = _mm512_mask_blend_ps(odd, a, two_of(table + 32, index));
  if (level == 6) return a;
  __m512 b = _mm512_mask_blend_ps(odd, two_of(table + 64, index), two_of(table + 96, index));
  return _mm512_mask_blend_ps(_mm512_test_epi32_mask(index, _mm512_set1_epi32(64)), a, b);
}

/// A binary search in eight levels: each asks whether x lies above a threshold.
AVX512 static void encode_block(const nibble_state_map *map, const float *x, size_t n, float absmax, uint8_t *codes) {
  __m512 scale = _mm512_set1_ps(absmax);
  const __m512i one = _mm512_set1_epi32(1);
  for (size_t i = 0; i < n; i += 16) {
    __mmask16 mask = lanes_of(n - i);
    __m512 number = _mm512_maskz_loadu_ps(mask, x + i), s = _mm512_div_ps(number, scale);
    __m512i code = _mm512_setzero_si512();
#pragma clang loop unroll(full)
    for (int level = 0; level < 8; level++) {
      __mmask16 above = _mm512_cmp_ps_mask(s, level_of(map, level, code), _CMP_GT_OQ);
      code = _mm512_add_epi32(code, code);
      code = _mm512_mask_add_epi32(code, above, code, one);
    }
    if (map->is_signed) {
      __mmask16 lost = _mm512_cmpeq_epi32_mask(code, _mm512_set1_epi32(127)) & _mm512_cmp_ps_mask(number, _mm512_setzero_ps(), _CMP_LT_OQ);
      code = _mm512_mask_sub_epi32(code, lost, code, one);
    } else {
      __mmask16 lost = _mm512_testn_epi32_mask(code, code) & _mm512_cmp_ps_mask(number, _mm512_setzero_ps(), _CMP_GT_OQ);
      code = _mm512_mask_add_epi32(code, lost, code, one);
    }
    _mm_mask_storeu_epi8(codes + i, mask, _mm512_cvtepi32_epi8(code));
  }
}

const nibble_optimizers nibble_avx512_optimizers = NIBBLE_OPTIMIZERS_TABLE;

#endif
