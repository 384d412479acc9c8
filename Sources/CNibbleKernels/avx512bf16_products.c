// Products with the bfloat16 dot product of AVX-512.

#if defined(__x86_64__)

#include "avx512_products.h"
#include "avx512bf16.h"

#define TARGET AVX512BF16
#define PAIR 2
#define VEC_SPREAD(p) _mm512_castsi512_ps(_mm512_set1_epi32((int)nibble_load32(p, 0)))
#define VEC_STEP(c, w, x) _mm512_dpbf16_ps(c, (__m512bh)(w), (__m512bh)(x))
#define VEC_PAIRS(v, w) ((__m512)_mm512_cvtne2ps_pbh(w, v))

#include "products_loops.h"

AVX512BF16 static void decode(const nibble_matrix *w, size_t element, size_t n, void *to) {
  float scales[nibble_panel + nibble_depth];
  uint16_t *out = to;
  if (!nibble_has_blocks(w) || element & 1) {
    nibble_matrix_run(&nibble_avx512_kernels, w, element, n, nibble_bf16, out);
    return;
  }
  size_t within, block = nibble_divide(element, w->block, &within);
  scales_avx512(w, block, nibble_blocks(w, within + n), scales);
  const uint8_t *codes = (const uint8_t *)w->data + element / 2;
  __m512 book = _mm512_loadu_ps(w->codebook);
  for (const float *scale = scales; n; scale++, within = 0) {
    size_t part = w->block - within, i = 0;
    part = part < n ? part : n;
    __m512i table = table_of(book, *scale, *scale);
    for (; i + 32 <= part; i += 32)
      _mm512_storeu_si512(out + i, lookup_16(table, _mm_loadu_si128((const void *)(codes + i / 2))));
    if (i < part) {
      size_t rest = part - i;
      __m128i last = _mm_maskz_loadu_epi8((__mmask16)NIBBLE_MASK((rest + 1) / 2), codes + i / 2);
      _mm512_mask_storeu_epi16(out + i, (__mmask32)NIBBLE_MASK(rest), lookup_16(table, last));
    }
    codes += part / 2, out += part, n -= part;
  }
}

/// Puts the numbers of two rows side by side.
AVX512BF16_INLINE void interleave(const uint16_t *a, const uint16_t *b, size_t n, uint32_t *out) {
  for (size_t i = 0; i < n; i++) out[i] = a[i] | (uint32_t)b[i] << 16;
}

AVX512BF16 static void decode_pair(const nibble_matrix *w, size_t row, size_t rows, size_t column, size_t n, uint32_t *out) {
  uint16_t first[nibble_panel], second[nibble_panel] = {0};
  size_t element = row * w->columns + column, below = element + w->columns;
  if (rows < 2 || !nibble_has_blocks(w) || (element | w->columns) & 1 || w->columns % w->block || w->block % 16) {
    decode(w, element, n, first);
    if (rows > 1) decode(w, below, n, second);
    interleave(first, second, n, out);
    return;
  }
  // The blocks of both rows end at the same columns: 32 entries serve both, the fifth bit of an index tells the row.
  float scales[2][nibble_panel];
  size_t within, block = nibble_divide(element, w->block, &within), blocks = nibble_blocks(w, within + n);
  scales_avx512(w, block, blocks, scales[0]);
  scales_avx512(w, nibble_divide(below, w->block, &within), blocks, scales[1]);
  const uint8_t *codes = (const uint8_t *)w->data + element / 2;
  size_t apart = w->columns / 2;
  __m512 book = _mm512_loadu_ps(w->codebook);
  for (size_t b = 0; n; b++, within = 0) {
    size_t part = w->block - within, i = 0;
    part = part < n ? part : n;
    __m512i table = table_of(book, scales[0][b], scales[1][b]);
    for (; i + 16 <= part; i += 16)
      _mm512_storeu_si512(out + i, lookup_pairs(table, _mm_loadl_epi64((const void *)(codes + i / 2)),
                                                _mm_loadl_epi64((const void *)(codes + apart + i / 2))));
    if (i < part) {
      size_t rest = part - i;
      __mmask16 mask = (__mmask16)NIBBLE_MASK((rest + 1) / 2);
      __m512i v = lookup_pairs(table, _mm_maskz_loadu_epi8(mask, codes + i / 2),
                               _mm_maskz_loadu_epi8(mask, codes + apart + i / 2));
      _mm512_mask_storeu_epi32(out + i, (__mmask16)NIBBLE_MASK(rest), v);
    }
    codes += part / 2, out += part, n -= part;
  }
}

AVX512BF16 static void pack(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(0, x, rows, lanes, k, stride, packed);
}

const nibble_products nibble_avx512bf16_product = {
    .pair = 2, .width = WIDTH, .tile = TILE, .pack = pack, .decode = decode, .decode_pair = decode_pair,
    .tile_product = tile_product, .store = store,
    .few = &nibble_avx512bf16_few};

#endif
