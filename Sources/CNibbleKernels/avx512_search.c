// The search for scales with AVX-512: four elements of all 16 scales a step.

#if defined(__x86_64__)

#include "avx512_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  __m512i thresholds, values;
} level_table;

AVX512_INLINE level_table load_table(const nibble_level_table *t) {
  return (level_table){_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)t->thresholds)),
                       _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)t->values))};
}

AVX512_INLINE __m512i value_of(const level_table *t, __m512i level, __m512i place) {
  __mmask64 above = _mm512_cmpgt_epi8_mask(level, _mm512_shuffle_epi8(t->thresholds, place));
  return _mm512_shuffle_epi8(t->values, _mm512_mask_add_epi8(place, above, place, _mm512_set1_epi8(1)));
}

typedef struct {
  __m512i yq, qq;  ///< of 16 scales
} rough_sums;

AVX512_INLINE __m512i dot(__m512i sum, __m512i a, __m512i b) {
  return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
}

AVX512_INLINE void add(rough_sums *sums, __m512i magnitudes, __m512i q) {
  sums->yq = dot(sums->yq, q, magnitudes);
  sums->qq = dot(sums->qq, q, q);
}

AVX512_INLINE __m512i four(const int8_t *bytes) {
  int32_t v;
  memcpy(&v, bytes, 4);
  return _mm512_set1_epi32(v);
}

/// The sums of 16 scales, and those of their opposites.
AVX512_INLINE void sums_of(int nf4, int both_signs, const nibble_byte_block *bytes, size_t block, rough_sums *plus,
                           rough_sums *minus) {
  const level_table positive = load_table(nf4 ? &nibble_nf4_positive_levels : &nibble_fp4_levels);
  const level_table negative = load_table(&nibble_nf4_negative_levels);
  const __m512i offsets = _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)nibble_search_offsets));
  const __m512i offset = _mm512_mullo_epi32(offsets, _mm512_set1_epi32(0x01010101));
  rough_sums p = {_mm512_setzero_si512(), _mm512_setzero_si512()}, m = p;
  for (size_t i = 0; i < block; i += 4) {
    __m512i level = _mm512_subs_epi8(four(bytes->levels + i), offset), elements = four(bytes->elements + i);
    __m512i place = _mm512_and_si512(_mm512_srli_epi16(level, 4), _mm512_set1_epi8(15));
    __m512i magnitudes = _mm512_abs_epi8(elements), q = value_of(&positive, level, place);
    if (!nf4) {
      add(&p, magnitudes, q);
      continue;
    }
    __m512i other = value_of(&negative, level, place);
    __mmask64 below = _mm512_movepi8_mask(elements);
    add(&p, magnitudes, _mm512_mask_blend_epi8(below, q, other));
    if (both_signs) add(&m, magnitudes, _mm512_mask_blend_epi8(below, other, q));
  }
  *plus = p;
  *minus = m;
}

/// The step of the first greatest gain.
AVX512_INLINE float rough_step(const rough_sums *s) {
  __m512 yq = _mm512_cvtepi32_ps(s->yq), qq = _mm512_cvtepi32_ps(s->qq);
  __m512 gain = _mm512_div_ps(_mm512_mul_ps(yq, yq), qq);
  __mmask16 first = _mm512_cmp_ps_mask(gain, _mm512_set1_ps(_mm512_reduce_max_ps(gain)), _CMP_EQ_OQ);
  return nibble_step(_mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(first, s->yq))),
                     _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(first, s->qq))));
}

/// The sum of 16 lanes, in the order of search.h.
AVX512_INLINE float sum16(__m512 s) {
  __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps(s, 1));
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/// Tries the codes under a step.
AVX512_INLINE void try_step(const avx512_tables *t, int nf4, float step, const float *y, size_t block, nibble_best *best) {
  __m512 steps = _mm512_set1_ps(step), yq = _mm512_setzero_ps(), qq = yq;
  for (size_t i = 0; i < block; i += 16) {
    __m512 q, v = _mm512_loadu_ps(y + i);
    avx512_codes(t, nf4, 1, _mm512_mul_ps(v, steps), &q);
    yq = _mm512_add_ps(yq, _mm512_mul_ps(v, q));
    qq = _mm512_add_ps(qq, _mm512_mul_ps(q, q));
  }
  nibble_keep_best(best, sum16(yq), sum16(qq));
}

AVX512_INLINE void search_blocks(int nf4, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  const avx512_tables t = avx512_make_tables(nf4, 0);
  for (size_t b = 0; b < blocks; b += nibble_together) {
    size_t n = blocks - b < nibble_together ? blocks - b : nibble_together;
    float steps[nibble_together], opposite[nibble_together];
    for (size_t k = 0; k < n; k++) {
      nibble_byte_block bytes;
      nibble_fill_bytes(&bytes, y + (b + k) * block, block);
      rough_sums plus, minus;
      sums_of(nf4, both_signs, &bytes, block, &plus, &minus);
      steps[k] = rough_step(&plus);
      opposite[k] = both_signs ? -rough_step(&minus) : 0;
    }
    for (size_t k = 0; k < n; k++) {
      const float *from = y + (b + k) * block;
      nibble_best best = {-1, 0};
      try_step(&t, nf4, 1, from, block, &best);
      try_step(&t, nf4, steps[k], from, block, &best);
      if (both_signs) try_step(&t, nf4, opposite[k], from, block, &best);
      scales[b + k] = best.scale;
    }
  }
}

AVX512 void nibble_search_avx512(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block,
                                 float *scales) {
  if (code == nibble_nf4 && both_signs) search_blocks(1, 1, y, blocks, block, scales);
  else if (code == nibble_nf4) search_blocks(1, 0, y, blocks, block, scales);
  else search_blocks(0, 0, y, blocks, block, scales);
}

#endif
