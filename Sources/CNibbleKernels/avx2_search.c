// The search for scales with AVX2: four elements of eight scales a step.

#if defined(__x86_64__)

#include "avx2_code.h"
#include "search.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  __m256i thresholds, values;
} level_table;

AVX2_INLINE level_table load_table(const nibble_level_table *t) {
  return (level_table){_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t->thresholds)),
                       _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)t->values))};
}

AVX2_INLINE __m256i value_of(const level_table *t, __m256i level, __m256i place) {
  __m256i above = _mm256_cmpgt_epi8(level, _mm256_shuffle_epi8(t->thresholds, place));
  return _mm256_shuffle_epi8(t->values, _mm256_sub_epi8(place, above));
}

typedef struct {
  __m256i yq, qq;  ///< of eight scales
} rough_sums;

AVX2_INLINE __m256i dot(__m256i sum, __m256i a, __m256i b) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}

AVX2_INLINE void add(rough_sums *sums, __m256i magnitudes, __m256i q) {
  sums->yq = dot(sums->yq, q, magnitudes);
  sums->qq = dot(sums->qq, q, q);
}

AVX2_INLINE __m256i four(const int8_t *bytes) {
  int32_t v;
  memcpy(&v, bytes, 4);
  return _mm256_set1_epi32(v);
}

/// Of eight scales from `first` the sums, and those of their opposites.
AVX2_INLINE void sums_of(int nf4, int both_signs, const nibble_byte_block *bytes, size_t block, int first, rough_sums *plus,
                         rough_sums *minus) {
  const level_table positive = load_table(nf4 ? &nibble_nf4_positive_levels : &nibble_fp4_levels);
  const level_table negative = load_table(&nibble_nf4_negative_levels);
  const __m256i offsets = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(nibble_search_offsets + first)));
  const __m256i offset = _mm256_mullo_epi32(offsets, _mm256_set1_epi32(0x01010101));
  rough_sums p = {_mm256_setzero_si256(), _mm256_setzero_si256()}, m = p;
  for (size_t i = 0; i < block; i += 4) {
    __m256i level = _mm256_subs_epi8(four(bytes->levels + i), offset), elements = four(bytes->elements + i);
    __m256i place = _mm256_and_si256(_mm256_srli_epi16(level, 4), _mm256_set1_epi8(15));
    __m256i magnitudes = _mm256_abs_epi8(elements), q = value_of(&positive, level, place);
    if (!nf4) {
      add(&p, magnitudes, q);
      continue;
    }
    __m256i other = value_of(&negative, level, place);
    add(&p, magnitudes, _mm256_blendv_epi8(q, other, elements));
    if (both_signs) add(&m, magnitudes, _mm256_blendv_epi8(other, q, elements));
  }
  *plus = p;
  *minus = m;
}

AVX2_INLINE __m256 gain_of(const rough_sums *s) {
  __m256 yq = _mm256_cvtepi32_ps(s->yq);
  return _mm256_div_ps(_mm256_mul_ps(yq, yq), _mm256_cvtepi32_ps(s->qq));
}

/// The step of the first greatest gain among 16.
AVX2_INLINE float rough_step(const rough_sums s[2]) {
  __m256 low = gain_of(s), high = gain_of(s + 1), most = _mm256_max_ps(low, high);
  most = _mm256_max_ps(most, _mm256_permute2f128_ps(most, most, 1));
  most = _mm256_max_ps(most, _mm256_shuffle_ps(most, most, 0x4e));
  most = _mm256_max_ps(most, _mm256_shuffle_ps(most, most, 0xb1));
  unsigned first = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(low, most, _CMP_EQ_OQ)) |
                   (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(high, most, _CMP_EQ_OQ)) << 8;
  int k = __builtin_ctz(first | 1u << 15);
  int32_t yq[16], qq[16];
  for (int i = 0; i < 2; i++) {
    _mm256_storeu_si256((void *)(yq + 8 * i), s[i].yq);
    _mm256_storeu_si256((void *)(qq + 8 * i), s[i].qq);
  }
  return nibble_step(yq[k], qq[k]);
}

/// Sums of 16 lanes.
AVX2_INLINE float sum16(const __m256 s[2]) {
  __m256 eight = _mm256_add_ps(s[0], s[1]);
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/// Tries the codes under a step.
AVX2_INLINE void try_step(const avx2_tables *t, int nf4, float step, const float *y, size_t block, nibble_best *best) {
  __m256 steps = _mm256_set1_ps(step), yq[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, qq[2] = {yq[0], yq[0]};
  for (size_t i = 0; i < block; i += 16) {
#pragma clang loop unroll(full)
    for (int h = 0; h < 2; h++) {
      __m256 q, v = _mm256_loadu_ps(y + i + 8 * h);
      avx2_codes(t, nf4, 1, _mm256_mul_ps(v, steps), &q);
      yq[h] = _mm256_add_ps(yq[h], _mm256_mul_ps(v, q));
      qq[h] = _mm256_add_ps(qq[h], _mm256_mul_ps(q, q));
    }
  }
  nibble_keep_best(best, sum16(yq), sum16(qq));
}

AVX2_INLINE void search_blocks(int nf4, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  const avx2_tables t = avx2_make_tables(nf4, 0);
  for (size_t b = 0; b < blocks; b += nibble_together) {
    size_t n = blocks - b < nibble_together ? blocks - b : nibble_together;
    float steps[nibble_together], opposite[nibble_together];
    for (size_t k = 0; k < n; k++) {
      nibble_byte_block bytes;
      nibble_fill_bytes(&bytes, y + (b + k) * block, block);
      rough_sums plus[2], minus[2];
      for (int h = 0; h < 2; h++) sums_of(nf4, both_signs, &bytes, block, 8 * h, plus + h, minus + h);
      steps[k] = rough_step(plus);
      opposite[k] = both_signs ? -rough_step(minus) : 0;
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

AVX2 void nibble_search_avx2(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales) {
  if (code == nibble_nf4 && both_signs) search_blocks(1, 1, y, blocks, block, scales);
  else if (code == nibble_nf4) search_blocks(1, 0, y, blocks, block, scales);
  else search_blocks(0, 0, y, blocks, block, scales);
}

#endif
