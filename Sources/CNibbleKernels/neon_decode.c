// NEON decode: byte shuffles look up every byte of an element, interleaving stores put them together. And this
// variant's table of kernels.

#if defined(__aarch64__)

#include "decode.h"
#include "neon.h"
#include "numbers_loops.h"
#include "sums_loops.h"

#pragma STDC FP_CONTRACT OFF

NIBBLE_INLINE void make_table(const float codebook[16], float scale, nibble_number number, nibble_table *table) {
  for (int c = 0; c < 16; c += 4) {
    float32x4_t v = vmulq_n_f32(vld1q_f32(codebook + c), scale);
    if (number == nibble_f32) {
      vst1q_f32(table->f32 + c, v);
    } else if (number == nibble_f16) {
      vst1_u16(table->u16 + c, vreinterpret_u16_f16(vcvt_f16_f32(v)));
    } else {
      for (int l = 0; l < 4; l++) table->u16[c + l] = nibble_to_bf16(v[l]);
    }
  }
}

NIBBLE_INLINE void decode16(const nibble_table *table, const uint8_t *codes, size_t count, uint8_t *out) {
  uint8x16x2_t planes = vld2q_u8((const uint8_t *)table->u16);
  size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    uint8x16_t c = vld1q_u8(codes + i / 2);
    uint8x16_t first = vshrq_n_u8(c, 4), second = vandq_u8(c, vdupq_n_u8(15));
    uint8x16_t n0 = vzip1q_u8(first, second), n1 = vzip2q_u8(first, second);
    uint8x16x2_t r0 = {{vqtbl1q_u8(planes.val[0], n0), vqtbl1q_u8(planes.val[1], n0)}};
    uint8x16x2_t r1 = {{vqtbl1q_u8(planes.val[0], n1), vqtbl1q_u8(planes.val[1], n1)}};
    vst2q_u8(out + 2 * i, r0);
    vst2q_u8(out + 2 * i + 32, r1);
  }
  nibble_decode_rest16(table->u16, codes, i, count, out);
}

NIBBLE_INLINE void decode32(const nibble_table *table, const uint8_t *codes, size_t count, uint8_t *out) {
  uint8x16x4_t planes = vld4q_u8((const uint8_t *)table->f32);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    uint8x8_t c = vld1_u8(codes + i / 2);
    uint8x8x2_t zipped = vzip_u8(vshr_n_u8(c, 4), vand_u8(c, vdup_n_u8(15)));
    uint8x16_t n = vcombine_u8(zipped.val[0], zipped.val[1]);
    uint8x16x4_t r;
    for (int plane = 0; plane < 4; plane++) r.val[plane] = vqtbl1q_u8(planes.val[plane], n);
    vst4q_u8(out + 4 * i, r);
  }
  nibble_decode_rest32(table->f32, codes, i, count, out);
}

static void decode_neon(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                        const float *absmax, nibble_number number, void *out) {
  size_t size = nibble_number_size(number);
  for (size_t first = 0, b = 0; first < count; first += block, b++) {
    size_t n = count - first < block ? count - first : block;
    nibble_table table;
    make_table(codebook, nibble_load_f32(absmax, b), number, &table);
    uint8_t *to = (uint8_t *)out + first * size;
    if (number == nibble_f32) decode32(&table, codes + first / 2, n, to);
    else decode16(&table, codes + first / 2, n, to);
  }
}

static void widen_neon(nibble_number number, const void *x, size_t count, float *out) {
  size_t i = 0;
  if (number != nibble_f16) {
    nibble_widen_loop(number, x, count, out);
    return;
  }
  for (; i + 8 <= count; i += 8) {
    float16x8_t h = vreinterpretq_f16_u8(vld1q_u8((const uint8_t *)x + 2 * i));
    vst1q_f32(out + i, vcvt_f32_f16(vget_low_f16(h)));
    vst1q_f32(out + i + 4, vcvt_high_f32_f16(h));
  }
  for (; i < count; i++) nibble_store_f32(out, i, nibble_from_f16(nibble_load16(x, i)));
}

static void narrow_neon(nibble_number number, const float *x, size_t count, void *out) {
  size_t i = 0;
  if (number != nibble_f16) {
    nibble_narrow_loop(number, x, count, out);
    return;
  }
  for (; i + 8 <= count; i += 8) {
    float16x8_t h = vcvt_high_f16_f32(vcvt_f16_f32(vld1q_f32(x + i)), vld1q_f32(x + i + 4));
    vst1q_u8((uint8_t *)out + 2 * i, vreinterpretq_u8_f16(h));
  }
  for (; i < count; i++) nibble_store16(out, i, nibble_to_f16(nibble_load_f32(x, i)));
}

static void scale_bytes_neon(const int8_t *codes, size_t count, float scale, nibble_number number, void *out) {
  nibble_scale_bytes_loop(codes, count, scale, number, out);
}

static void difference_neon(const float *a, const float *b, size_t count, nibble_difference_sums *sums) {
  nibble_difference_loop(a, b, count, sums);
}

static void scan_neon(const float *x, size_t count, nibble_scan_sums *sums) { nibble_scan_loop(x, count, sums); }

static uint64_t count_nonfinite_neon(nibble_number number, const void *x, size_t count) {
  return nibble_nonfinite_loop(number, x, count);
}

const nibble_kernels nibble_neon_kernels = {
    .variant = nibble_neon,
    .max_bits = nibble_max_bits_neon,
    .encode = nibble_encode_neon,
    .decode = decode_neon,
    .widen = widen_neon,
    .narrow = narrow_neon,
    .scale_bytes = scale_bytes_neon,
    .difference = difference_neon,
    .scan = scan_neon,
    .count_nonfinite = count_nonfinite_neon,
    .search = nibble_search_neon,
};

#endif
