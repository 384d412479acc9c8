// ggml's blocks into float32, as loops that each variant compiles for its own instructions.
//
// Before this file come the definitions of lanes.h, and NIBBLE_OWN_LEVELS if the variant has its own nibble_look_up.

#ifndef NIBBLE_GGML_DECODE_LOOPS_H
#define NIBBLE_GGML_DECODE_LOOPS_H

#include "ggml.h"

#pragma STDC FP_CONTRACT OFF

#define GGML_INLINE static inline __attribute__((always_inline)) LANES_TARGET

/// 32 numbers of a block are 16 bytes: the low halves first, then the high ones.
GGML_INLINE void nibble_decode_q4_0(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0));
  for (int i = 0; i < 16; i++) {
    y[i] = (float)((b[2 + i] & 15) - 8) * d;
    y[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
  }
}

GGML_INLINE void nibble_decode_q4_1(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0)), m = nibble_from_f16(nibble_load16(b, 1));
  for (int i = 0; i < 16; i++) {
    y[i] = (float)(b[4 + i] & 15) * d + m;
    y[i + 16] = (float)(b[4 + i] >> 4) * d + m;
  }
}

GGML_INLINE void nibble_decode_q5_0(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0));
  const uint32_t high = nibble_load32(b + 2, 0);
  for (int i = 0; i < 16; i++) {
    y[i] = (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16) * d;
    y[i + 16] = (float)((int)(b[6 + i] >> 4 | (high >> (i + 16) & 1) << 4) - 16) * d;
  }
}

GGML_INLINE void nibble_decode_q5_1(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0)), m = nibble_from_f16(nibble_load16(b, 1));
  const uint32_t high = nibble_load32(b + 4, 0);
  for (int i = 0; i < 16; i++) {
    y[i] = (float)(int)((b[8 + i] & 15) | (high >> i & 1) << 4) * d + m;
    y[i + 16] = (float)(int)(b[8 + i] >> 4 | (high >> (i + 16) & 1) << 4) * d + m;
  }
}

GGML_INLINE void nibble_decode_q8_0(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0));
  for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}

/// 16 groups of 16 with a scale and a minimum in a byte, then the codes, 2 bits each: 128 numbers in 32 bytes, a quarter of them in
/// each pair of bits.
GGML_INLINE void nibble_decode_q2_k(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b + 80, 0)), m = nibble_from_f16(nibble_load16(b + 80, 1));
#pragma clang loop unroll(full)
  for (int group = 0; group < 16; group++) {
    const float scale = d * (float)(b[group] & 15), minimum = m * (float)(b[group] >> 4);
    const uint8_t *q = b + 16 + group / 8 * 32 + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    for (int i = 0; i < 16; i++) y[16 * group + i] = scale * (float)(q[i] >> shift & 3) - minimum;
  }
}

/// The high bits of 256 codes, bit k of a byte for every 32nd number; the low two bits as q2_k has them; scales; d.
GGML_INLINE void nibble_decode_q3_k(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b + 108, 0));
#pragma clang loop unroll(full)
  for (int group = 0; group < 16; group++) {
    const float scale = d * (float)nibble_q3_scale(b + 96, group);
    const uint8_t *q = b + 32 + group / 8 * 32 + group % 2 * 16, *high = b + group % 2 * 16;
    const int shift = group % 8 / 2 * 2, bit = group / 2;
    for (int i = 0; i < 16; i++) y[16 * group + i] = scale * (float)((q[i] >> shift & 3) - 4 + (high[i] >> bit & 1) * 4);
  }
}

GGML_INLINE void nibble_decode_q4_k(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0)), m = nibble_from_f16(nibble_load16(b, 1));
#pragma clang loop unroll(full)
  for (int group = 0; group < 8; group++) {
    uint8_t s, o;
    nibble_six_bits(b + 4, group, &s, &o);
    const float scale = d * (float)s, minimum = m * (float)o;
    const uint8_t *q = b + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; i++) y[32 * group + i] = scale * (float)(q[i] >> shift & 15) - minimum;
  }
}

GGML_INLINE void nibble_decode_q5_k(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0)), m = nibble_from_f16(nibble_load16(b, 1));
#pragma clang loop unroll(full)
  for (int group = 0; group < 8; group++) {
    uint8_t s, o;
    nibble_six_bits(b + 4, group, &s, &o);
    const float scale = d * (float)s, minimum = m * (float)o;
    const uint8_t *high = b + 16, *q = b + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    uint8_t codes[32];
    for (int i = 0; i < 32; i++) codes[i] = (uint8_t)((q[i] >> shift & 15) | (high[i] >> group & 1) << 4);
    for (int i = 0; i < 32; i++) y[32 * group + i] = scale * (float)codes[i] - minimum;
  }
}

/// Of 128 numbers the low 4 bits are 64 bytes, low halves first; the high 2 bits are 32 bytes, a quarter of them in each pair of bits.
GGML_INLINE void nibble_decode_q6_k(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b + 208, 0));
  for (int half = 0; half < 2; half++, y += 128) {
    const uint8_t *low = b + 64 * half, *high = b + 128 + 32 * half;
    const int8_t *scales = (const int8_t *)b + 192 + 8 * half;
    int8_t codes[128];
    for (int i = 0; i < 32; i++) {
      codes[i] = (int8_t)(((low[i] & 15) | (high[i] & 3) << 4) - 32);
      codes[i + 32] = (int8_t)(((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32);
      codes[i + 64] = (int8_t)((low[i] >> 4 | (high[i] >> 4 & 3) << 4) - 32);
      codes[i + 96] = (int8_t)((low[i + 32] >> 4 | high[i] >> 6 << 4) - 32);
    }
    for (int group = 0; group < 8; group++) {
      const float scale = d * (float)scales[group];
      for (int i = 0; i < 16; i++) y[16 * group + i] = scale * (float)codes[16 * group + i];
    }
  }
}

#if !defined(NIBBLE_OWN_LEVELS)
/// Levels of 16 codes.
GGML_INLINE void nibble_look_up(const int8_t *levels, const uint8_t *codes, int8_t *out) {
  for (int i = 0; i < 16; i++) out[i] = levels[codes[i]];
}
#endif

GGML_INLINE void nibble_decode_levels(const uint8_t *codes, const int8_t *levels, float scale, float *y) {
  uint8_t low[16], high[16];
  int8_t found[32];
  for (int i = 0; i < 16; i++) low[i] = codes[i] & 15, high[i] = codes[i] >> 4;
  nibble_look_up(levels, low, found);
  nibble_look_up(levels, high, found + 16);
  for (int i = 0; i < 32; i++) y[i] = scale * (float)found[i];
}

GGML_INLINE void nibble_decode_iq4_xs(const uint8_t *b, float *y) {
  const float d = nibble_from_f16(nibble_load16(b, 0));
  for (int group = 0; group < 8; group++)
    nibble_decode_levels(b + 8 + 16 * group, nibble_iq4_levels, d * (float)nibble_iq4_scale(b, group), y + 32 * group);
}

GGML_INLINE void nibble_ggml_decode_loop(nibble_ggml type, const uint8_t *blocks, size_t count, float *out) {
#define NIBBLE_EACH(numbers, bytes, decode)                                                        \
  for (size_t i = 0; i < count; i++) {                                                             \
    const uint8_t *b = blocks + i * (bytes);                                                       \
    float *y = out + i * (numbers);                                                                \
    decode;                                                                                        \
  }                                                                                                \
  break
  switch (type) {
    case nibble_q4_0: NIBBLE_EACH(32, 18, nibble_decode_q4_0(b, y));
    case nibble_q4_1: NIBBLE_EACH(32, 20, nibble_decode_q4_1(b, y));
    case nibble_q5_0: NIBBLE_EACH(32, 22, nibble_decode_q5_0(b, y));
    case nibble_q5_1: NIBBLE_EACH(32, 24, nibble_decode_q5_1(b, y));
    case nibble_q8_0: NIBBLE_EACH(32, 34, nibble_decode_q8_0(b, y));
    case nibble_q2_k: NIBBLE_EACH(256, 84, nibble_decode_q2_k(b, y));
    case nibble_q3_k: NIBBLE_EACH(256, 110, nibble_decode_q3_k(b, y));
    case nibble_q4_k: NIBBLE_EACH(256, 144, nibble_decode_q4_k(b, y));
    case nibble_q5_k: NIBBLE_EACH(256, 176, nibble_decode_q5_k(b, y));
    case nibble_q6_k: NIBBLE_EACH(256, 210, nibble_decode_q6_k(b, y));
    case nibble_iq4_nl:
      NIBBLE_EACH(32, 18, nibble_decode_levels(b + 2, nibble_iq4_levels, nibble_from_f16(nibble_load16(b, 0)), y));
    case nibble_iq4_xs: NIBBLE_EACH(256, 136, nibble_decode_iq4_xs(b, y));
    case nibble_mxfp4: NIBBLE_EACH(32, 17, nibble_decode_levels(b + 1, nibble_mxfp4_levels, nibble_half_of_e8m0(b[0]), y));
  }
#undef NIBBLE_EACH
}

#endif
