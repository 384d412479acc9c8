// Bits of numbers: unaligned loads, 16-bit formats, in plain C that compilers vectorise.

#ifndef NIBBLE_BITS_H
#define NIBBLE_BITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#pragma STDC FP_CONTRACT OFF

#define NIBBLE_INLINE static inline __attribute__((always_inline))

NIBBLE_INLINE uint32_t nibble_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

NIBBLE_INLINE float nibble_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

#define NIBBLE_LOAD(type, name)                                  \
  NIBBLE_INLINE type name(const void *x, size_t i) {             \
    type value;                                                  \
    memcpy(&value, (const char *)x + i * sizeof(type), sizeof(type)); \
    return value;                                                \
  }
NIBBLE_LOAD(uint16_t, nibble_load16)
NIBBLE_LOAD(uint32_t, nibble_load32)
NIBBLE_LOAD(uint64_t, nibble_load64)
NIBBLE_LOAD(int16_t, nibble_load_i16)
NIBBLE_LOAD(int32_t, nibble_load_i32)
NIBBLE_LOAD(int64_t, nibble_load_i64)
NIBBLE_LOAD(float, nibble_load_f32)
NIBBLE_LOAD(double, nibble_load_f64)

NIBBLE_INLINE void nibble_store16(void *out, size_t i, uint16_t value) {
  memcpy((char *)out + 2 * i, &value, 2);
}

NIBBLE_INLINE void nibble_store_f32(void *out, size_t i, float value) {
  memcpy((char *)out + 4 * i, &value, 4);
}

/// Exact. The product moves the exponent and normalises subnormals; NaN turns quiet as in hardware.
NIBBLE_INLINE float nibble_from_f16(uint16_t h) {
  uint32_t magnitude = h & 0x7fffu;
  uint32_t bits = nibble_bits(nibble_float(magnitude << 13) * 0x1p112f);
  bits |= magnitude >= 0x7c00u ? 0x7f800000u : 0;
  bits |= magnitude > 0x7c00u ? 0x00400000u : 0;
  return nibble_float(bits | (uint32_t)(h & 0x8000u) << 16);
}

NIBBLE_INLINE float nibble_from_bf16(uint16_t h) { return nibble_float((uint32_t)h << 16); }

/// Nearest even. NaN keeps its sign and upper payload and turns quiet, as in hardware.
NIBBLE_INLINE uint16_t nibble_to_f16(float x) {
  uint32_t bits = nibble_bits(x), a = bits & 0x7fffffffu;
  uint32_t normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13;
  // 0.5 has the ulp of the smallest f16, so this addition rounds there.
  uint32_t tiny = nibble_bits(nibble_float(a) + 0.5f) - 0x3f000000u;
  uint32_t r = a < 0x38800000u ? tiny : normal;
  r = a >= 0x47800000u ? 0x7c00u : r;
  r = a > 0x7f800000u ? 0x7e00u | ((a >> 13) & 0x3ffu) : r;
  return (uint16_t)(r | (bits >> 16 & 0x8000u));
}

NIBBLE_INLINE uint16_t nibble_to_bf16(float x) {
  uint32_t bits = nibble_bits(x);
  uint32_t r = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  r = (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : r;
  return (uint16_t)r;
}

/// One element as float32; `number` is f32, f16, bf16 or f64.
NIBBLE_INLINE float nibble_element(int number, const void *x, size_t i) {
  switch (number) {
    case 1: return nibble_from_f16(nibble_load16(x, i));
    case 2: return nibble_from_bf16(nibble_load16(x, i));
    case 3: return (float)nibble_load_f64(x, i);
    default: return nibble_load_f32(x, i);
  }
}

#endif
