// Numbers into ggml's blocks of 32 with one scale, as loops that each variant compiles for its own instructions.
//
// ggml's arithmetic to the bit: float32, every operation rounded, nothing fused.

#ifndef NIBBLE_GGML_ENCODE_LOOPS_H
#define NIBBLE_GGML_ENCODE_LOOPS_H

#include "ggml.h"

#pragma STDC FP_CONTRACT OFF

/// The bits of the greatest magnitude.
NIBBLE_INLINE int32_t nibble_most_bits(const float *x, int n) {
  int32_t most = 0;
  for (int i = 0; i < n; i++) {
    int32_t bits = (int32_t)(nibble_bits(x[i]) & 0x7fffffffu);
    most = bits > most ? bits : most;
  }
  return most;
}

/// The first number of a block that has the greatest magnitude, with its sign; 0 for zeros of either sign.
NIBBLE_INLINE float nibble_extreme(const float *x) {
  const int32_t most = nibble_most_bits(x, 32);
  int32_t plus = 0, minus = 0;
  for (int i = 0; i < 32; i++) {
    plus |= (int32_t)nibble_bits(x[i]) == most;
    minus |= (int32_t)nibble_bits(x[i]) == (most | INT32_MIN);
  }
  // Both are rare.
  if (plus && minus && most)
    for (int i = 0;; i++)
      if ((nibble_bits(x[i]) & 0x7fffffffu) == (uint32_t)most) return x[i];
  return nibble_float((uint32_t)(minus && most ? most | INT32_MIN : most));
}

/// The whole part of a number that becomes a code. The scale of tiny numbers has an infinite reciprocal; what that makes of them is 0, as on
/// x86, where ggml leaves it open.
NIBBLE_INLINE int32_t nibble_cut(float v) { return (int32_t)(__builtin_fabsf(v) < 256.0f ? v : 0.0f); }

NIBBLE_INLINE int32_t nibble_at_most(int32_t v, int32_t most) { return v < most ? v : most; }

NIBBLE_INLINE float nibble_reciprocal(float d) { return d != 0 ? 1.0f / d : 0.0f; }

/// q4_0 and q5_0: the number of greatest magnitude becomes the lowest code.
NIBBLE_INLINE float nibble_signed_codes(const float *x, int32_t half, uint8_t *codes) {
  const float d = nibble_extreme(x) / (float)-half, inverse = nibble_reciprocal(d), middle = (float)half + 0.5f;
  for (int i = 0; i < 32; i++) codes[i] = (uint8_t)nibble_at_most(nibble_cut(x[i] * inverse + middle), 2 * half - 1);
  return d;
}

/// q4_1 and q5_1: codes from the least number to the greatest.
NIBBLE_INLINE float nibble_range_codes(const float *x, int32_t top, float *least, uint8_t *codes) {
  float low = x[0], high = x[0];
  for (int i = 1; i < 32; i++) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  const float d = (high - low) / (float)top, inverse = nibble_reciprocal(d);
  for (int i = 0; i < 32; i++) codes[i] = (uint8_t)nibble_at_most(nibble_cut((x[i] - low) * inverse + 0.5f), top);
  *least = low;
  return d;
}

NIBBLE_INLINE void nibble_store_halves(const uint8_t *codes, uint8_t *out) {
  for (int i = 0; i < 16; i++) out[i] = (uint8_t)((codes[i] & 15) | codes[i + 16] << 4);
}

NIBBLE_INLINE void nibble_store_fifth_bits(const uint8_t *codes, uint8_t *out) {
  uint32_t high = 0;
  for (int i = 0; i < 32; i++) high |= (uint32_t)(codes[i] >> 4) << i;
  memcpy(out, &high, 4);
}

NIBBLE_INLINE void nibble_encode_q4_0(const float *x, uint8_t *b) {
  uint8_t codes[32];
  nibble_store16(b, 0, nibble_to_f16(nibble_signed_codes(x, 8, codes)));
  nibble_store_halves(codes, b + 2);
}

NIBBLE_INLINE void nibble_encode_q5_0(const float *x, uint8_t *b) {
  uint8_t codes[32];
  nibble_store16(b, 0, nibble_to_f16(nibble_signed_codes(x, 16, codes)));
  nibble_store_fifth_bits(codes, b + 2);
  nibble_store_halves(codes, b + 6);
}

NIBBLE_INLINE void nibble_encode_q4_1(const float *x, uint8_t *b) {
  uint8_t codes[32];
  float least;
  nibble_store16(b, 0, nibble_to_f16(nibble_range_codes(x, 15, &least, codes)));
  nibble_store16(b, 1, nibble_to_f16(least));
  nibble_store_halves(codes, b + 4);
}

NIBBLE_INLINE void nibble_encode_q5_1(const float *x, uint8_t *b) {
  uint8_t codes[32];
  float least;
  nibble_store16(b, 0, nibble_to_f16(nibble_range_codes(x, 31, &least, codes)));
  nibble_store16(b, 1, nibble_to_f16(least));
  nibble_store_fifth_bits(codes, b + 4);
  nibble_store_halves(codes, b + 8);
}

/// Halves are rounded away from 0.
NIBBLE_INLINE void nibble_encode_q8_0(const float *x, uint8_t *b) {
  const float d = nibble_float((uint32_t)nibble_most_bits(x, 32)) / 127.0f, inverse = nibble_reciprocal(d);
  nibble_store16(b, 0, nibble_to_f16(d));
  for (int i = 0; i < 32; i++) {
    float v = x[i] * inverse;
    v = __builtin_fabsf(v) < 256.0f ? v : 0.0f;
    int32_t whole = (int32_t)v;
    float rest = v - (float)whole;
    b[2 + i] = (uint8_t)(whole + (rest >= 0.5f) - (rest <= -0.5f));
  }
}

/// The exponent of a number's power of two, as a float32 logarithm gives it: that of numbers just below a power of two rounds up to it.
NIBBLE_INLINE int32_t nibble_rounded_exponent(float x) {
  const int scaled = x < 0x1p-126f;
  const uint32_t bits = nibble_bits(scaled ? x * 0x1p24f : x);
  const int32_t exponent = (int32_t)(bits >> 23) - 127 - 24 * scaled;
  const double below = (double)(0x800000u - (bits & 0x7fffffu)) * 0x1p-24;  // the power above times (1 - below)
  if (below > 0x1p-16) return exponent;
  // -log2(1 - below), whose next term is below 2^-32 of it.
  const double distance = (below + below * below / 2) * 1.4426950408889634;
  return exponent + ((float)((double)(exponent + 1) - distance) == (float)(exponent + 1));
}

/// An exponent for 32 numbers of FP4 E2M1, the nearest each, the lesser magnitude of two that are as near. Where all are below 2^-125
/// ggml's exponent leaves its byte; here it is the least.
NIBBLE_INLINE void nibble_encode_mxfp4(const float *x, uint8_t *b) {
  static const float middles[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
  const float most = nibble_float((uint32_t)nibble_most_bits(x, 32));
  const int32_t exponent = most > 0 ? nibble_rounded_exponent(most) + 125 : 0;
  const uint8_t e = (uint8_t)(exponent > 0 ? exponent : 0);
  const float d = nibble_half_of_e8m0(e);
  float limits[7];
  for (int k = 0; k < 7; k++) limits[k] = middles[k] * d;
  uint8_t codes[32];
  for (int i = 0; i < 32; i++) {
    float magnitude = __builtin_fabsf(x[i]);
    int32_t code = 0;
    for (int k = 0; k < 7; k++) code += magnitude > limits[k];
    codes[i] = (uint8_t)(code + (code && x[i] < 0 ? 8 : 0));
  }
  b[0] = e;
  nibble_store_halves(codes, b + 1);
}

/// A block none of whose numbers is finite: its scale is NaN, or where that has no NaN, all are beyond float32.
NIBBLE_INLINE void nibble_lose(nibble_ggml_layout layout, uint8_t *block) {
  memset(block, layout.scale < 0 ? 0x77 : 0, layout.bytes);
  if (layout.scale < 0) block[0] = 255;
  else nibble_store16(block + layout.scale, 0, 0x7e00);
}

/// Looks at an encoded block beside its numbers.
NIBBLE_INLINE void nibble_note(nibble_ggml_layout layout, const float *x, uint8_t *block, nibble_ggml_counts *counts) {
  const int32_t most = nibble_most_bits(x, layout.numbers);
  int lost = most >= 0x7f800000;
  if (lost) nibble_lose(layout, block);
  else counts->zero_blocks += !most;
  if (!lost && layout.scale >= 0) {
    uint16_t scale = nibble_load16(block + layout.scale, 0) & 0x7fffu;
    uint16_t minimum = layout.minimum < 0 ? 0 : nibble_load16(block + layout.minimum, 0) & 0x7fffu;
    lost = scale >= 0x7c00u || minimum >= 0x7c00u;
    counts->vanished += most && !scale && !minimum;
    // A scale of fewer of float16's least steps than there are codes on a side moves the outermost by more than half a code. In blocks of
    // 256 codes are chosen under the scale as it is stored.
    const int bits = (layout.bytes - (layout.minimum < 0 ? 2 : 4)) / 4;
    counts->subnormal += layout.numbers == 32 && scale && scale < 1u << (bits - 1);
  }
  if (!lost) return;
  counts->nonfinite += layout.numbers;
  for (size_t i = 0; i < layout.numbers; i++) counts->finite_lost += (nibble_bits(x[i]) & 0x7fffffffu) < 0x7f800000u;
}

#endif
