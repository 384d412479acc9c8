// NEON encode kernel: 32 elements a step, split into even and odd ones by the loads, so that a byte of codes is
// one 32-bit lane of each.

#if defined(__aarch64__)

#include "neon.h"
#include "neon_code.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  float32x4_t even, odd;
} pair;

/// 16 elements: the first eight in p[0], the rest in p[1].
NIBBLE_INLINE void load16(int number, const char *x, pair p[2]) {
  if (number == nibble_f32) {
    for (int h = 0; h < 2; h++) {
      float32x4x2_t v = vld2q_f32((const float *)(const void *)(x + 32 * h));
      p[h] = (pair){v.val[0], v.val[1]};
    }
    return;
  }
  uint16x8x2_t v = vld2q_u16((const uint16_t *)(const void *)x);
  uint16x4_t e0 = vget_low_u16(v.val[0]), e1 = vget_high_u16(v.val[0]);
  uint16x4_t o0 = vget_low_u16(v.val[1]), o1 = vget_high_u16(v.val[1]);
  if (number == nibble_bf16) {
    p[0] = (pair){vreinterpretq_f32_u32(vshll_n_u16(e0, 16)), vreinterpretq_f32_u32(vshll_n_u16(o0, 16))};
    p[1] = (pair){vreinterpretq_f32_u32(vshll_n_u16(e1, 16)), vreinterpretq_f32_u32(vshll_n_u16(o1, 16))};
  } else {
    p[0] = (pair){vcvt_f32_f16(vreinterpret_f16_u16(e0)), vcvt_f32_f16(vreinterpret_f16_u16(o0))};
    p[1] = (pair){vcvt_f32_f16(vreinterpret_f16_u16(e1)), vcvt_f32_f16(vreinterpret_f16_u16(o1))};
  }
}

/// Both nibbles of each byte through a table.
NIBBLE_INLINE uint8x16_t map_nibbles(uint8x16_t table, uint8x16_t bytes) {
  uint8x16_t upper = vqtbl1q_u8(table, vshrq_n_u8(bytes, 4));
  return vorrq_u8(vshlq_n_u8(upper, 4), vqtbl1q_u8(table, vandq_u8(bytes, vdupq_n_u8(15))));
}

NIBBLE_INLINE void encode_loop(const nibble_encode_job *job, int nf4, int number, int clamp, const char *x,
                               size_t blocks, const float *inverse, uint8_t *codes, float *moments) {
  const neon_tables t = neon_make_tables(nf4, job->cpu_ties);
  const uint8x16_t fp4_codes = vld1q_u8(job->cpu_ties ? nibble_fp4_cpu_codes : nibble_fp4_cuda_codes);
  size_t half = 16 * nibble_number_size((nibble_number)number);
  for (size_t b = 0; b < blocks; b++) {
    float32x4_t ee = vdupq_n_f32(0), eq = ee, qq = ee;
    for (size_t i = 0; i < job->block; i += 32, codes += 16) {
      uint32x4_t both[4];
#pragma clang loop unroll(full)
      for (int h = 0; h < 4; h += 2, x += half) {
        pair p[2];
        load16(number, x, p);
#pragma clang loop unroll(full)
        for (int j = 0; j < 2; j++) {
          float32x4_t q0, q1;
          float32x4_t even = vmulq_n_f32(p[j].even, inverse[b]), odd = vmulq_n_f32(p[j].odd, inverse[b]);
          uint32x4_t upper = neon_codes(&t, nf4, clamp, even, &q0);
          both[h + j] = vorrq_u32(vshlq_n_u32(upper, 4), neon_codes(&t, nf4, clamp, odd, &q1));
          float32x4_t e0 = vsubq_f32(even, q0), e1 = vsubq_f32(odd, q1);
          ee = vfmaq_f32(vfmaq_f32(ee, e0, e0), e1, e1);
          eq = vfmaq_f32(vfmaq_f32(eq, e0, q0), e1, q1);
          qq = vfmaq_f32(vfmaq_f32(qq, q0, q0), q1, q1);
        }
      }
      uint16x8_t w0 = vcombine_u16(vmovn_u32(both[0]), vmovn_u32(both[1]));
      uint16x8_t w1 = vcombine_u16(vmovn_u32(both[2]), vmovn_u32(both[3]));
      uint8x16_t bytes = vcombine_u8(vmovn_u16(w0), vmovn_u16(w1));
      vst1q_u8(codes, nf4 ? bytes : map_nibbles(fp4_codes, bytes));
    }
    if (!moments) continue;
    nibble_store_f32(moments, 3 * b, vaddvq_f32(ee));
    nibble_store_f32(moments, 3 * b + 1, vaddvq_f32(eq));
    nibble_store_f32(moments, 3 * b + 2, vaddvq_f32(qq));
  }
}

NIBBLE_INLINE void encode_number(const nibble_encode_job *job, int number, const void *x, size_t blocks,
                                 const float *inverse, uint8_t *codes, float *moments) {
  if (job->code == nibble_fp4) {
    if (job->clamp) encode_loop(job, 0, number, 1, x, blocks, inverse, codes, moments);
    else encode_loop(job, 0, number, 0, x, blocks, inverse, codes, moments);
  } else if (job->clamp) {
    encode_loop(job, 1, number, 1, x, blocks, inverse, codes, moments);
  } else {
    encode_loop(job, 1, number, 0, x, blocks, inverse, codes, moments);
  }
}

void nibble_encode_neon(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                        uint8_t *codes, float *moments) {
  switch (job->number) {
    case nibble_f32: encode_number(job, nibble_f32, x, blocks, inverse, codes, moments); break;
    case nibble_f16: encode_number(job, nibble_f16, x, blocks, inverse, codes, moments); break;
    case nibble_bf16: encode_number(job, nibble_bf16, x, blocks, inverse, codes, moments); break;
    default: break;
  }
}

void nibble_max_bits_neon(nibble_number number, const void *x, size_t blocks, size_t block, uint32_t *bits) {
  const char *p = x;
  for (size_t b = 0; b < blocks; b++) {
    if (number == nibble_f32) {
      uint32x4_t max = vdupq_n_u32(0), max1 = max, magnitude = vdupq_n_u32(0x7fffffffu);
      for (size_t i = 0; i < block; i += 8, p += 32) {
        max = vmaxq_u32(max, vandq_u32(vreinterpretq_u32_u8(vld1q_u8((const void *)p)), magnitude));
        max1 = vmaxq_u32(max1, vandq_u32(vreinterpretq_u32_u8(vld1q_u8((const void *)(p + 16))), magnitude));
      }
      bits[b] = vmaxvq_u32(vmaxq_u32(max, max1));
      continue;
    }
    uint16x8_t max = vdupq_n_u16(0), max1 = max, magnitude = vdupq_n_u16(0x7fffu);
    for (size_t i = 0; i < block; i += 16, p += 32) {
      max = vmaxq_u16(max, vandq_u16(vreinterpretq_u16_u8(vld1q_u8((const void *)p)), magnitude));
      max1 = vmaxq_u16(max1, vandq_u16(vreinterpretq_u16_u8(vld1q_u8((const void *)(p + 16))), magnitude));
    }
    uint16_t top = vmaxvq_u16(vmaxq_u16(max, max1));
    bits[b] = number == nibble_bf16 ? (uint32_t)top << 16 : nibble_bits(nibble_from_f16(top));
  }
}

#endif
