// Widening, narrowing and counting loops, written once; every variant compiles them for its own instructions.

#ifndef NIBBLE_NUMBERS_LOOPS_H
#define NIBBLE_NUMBERS_LOOPS_H

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

/// Four exponent and three mantissa bits land at the top of a float32's, 120 exponents too low.
NIBBLE_INLINE float nibble_from_e4m3(uint8_t x) {
  uint32_t magnitude = x & 0x7fu;
  uint32_t bits = nibble_bits(nibble_float(magnitude << 20) * 0x1p120f);
  bits = magnitude == 0x7f ? 0x7fc00000u : bits;
  return nibble_float(bits | (uint32_t)(x & 0x80u) << 24);
}

/// 2^-127 is a subnormal float32.
NIBBLE_INLINE float nibble_from_e8m0(uint8_t x) {
  uint32_t bits = (uint32_t)x << 23;
  bits |= x == 0 || x == 255 ? 0x00400000u : 0;
  return nibble_float(bits);
}

#define NIBBLE_EACH(expression)                            \
  do {                                                     \
    for (size_t i = 0; i < count; i++) nibble_store_f32(out, i, (expression)); \
  } while (0)

NIBBLE_INLINE void nibble_widen_loop(nibble_number number, const void *x, size_t count, float *out) {
  const uint8_t *u8 = (const uint8_t *)x;
  switch (number) {
    case nibble_f32: memcpy((char *)out, x, 4 * count); break;
    case nibble_f16: NIBBLE_EACH(nibble_from_f16(nibble_load16(x, i))); break;
    case nibble_bf16: NIBBLE_EACH(nibble_from_bf16(nibble_load16(x, i))); break;
    case nibble_f64: NIBBLE_EACH((float)nibble_load_f64(x, i)); break;
    case nibble_f8_e4m3: NIBBLE_EACH(nibble_from_e4m3(u8[i])); break;
    case nibble_f8_e5m2: NIBBLE_EACH(nibble_from_f16((uint16_t)(u8[i] << 8))); break;
    case nibble_f8_e8m0: NIBBLE_EACH(nibble_from_e8m0(u8[i])); break;
    case nibble_u8: NIBBLE_EACH((float)u8[i]); break;
    case nibble_i8: NIBBLE_EACH((float)(int8_t)u8[i]); break;
    case nibble_u16: NIBBLE_EACH((float)nibble_load16(x, i)); break;
    case nibble_i16: NIBBLE_EACH((float)nibble_load_i16(x, i)); break;
    case nibble_u32: NIBBLE_EACH((float)nibble_load32(x, i)); break;
    case nibble_i32: NIBBLE_EACH((float)nibble_load_i32(x, i)); break;
    case nibble_u64: NIBBLE_EACH((float)nibble_load64(x, i)); break;
    case nibble_i64: NIBBLE_EACH((float)nibble_load_i64(x, i)); break;
  }
}
#undef NIBBLE_EACH

NIBBLE_INLINE void nibble_narrow_loop(nibble_number number, const float *x, size_t count, void *out) {
  if (number == nibble_f32) memcpy(out, (const char *)x, 4 * count);
  if (number == nibble_f16)
    for (size_t i = 0; i < count; i++) nibble_store16(out, i, nibble_to_f16(nibble_load_f32(x, i)));
  if (number == nibble_bf16)
    for (size_t i = 0; i < count; i++) nibble_store16(out, i, nibble_to_bf16(nibble_load_f32(x, i)));
}

/// codes · scale · (1 / 127), rounded after each, as bitsandbytes restores a row.
NIBBLE_INLINE void nibble_scale_bytes_loop(const int8_t *codes, size_t count, float scale, nibble_number number, void *out) {
  if (number == nibble_f32)
    for (size_t i = 0; i < count; i++) nibble_store_f32(out, i, ((float)codes[i] * scale) * NIBBLE_BYTE_UNIT);
  else
    for (size_t i = 0; i < count; i++) nibble_store16(out, i, nibble_to_bf16(((float)codes[i] * scale) * NIBBLE_BYTE_UNIT));
}

/// Narrow counters within a chunk keep the vectors dense.
#define NIBBLE_COUNT(counter, condition)                              \
  do {                                                                \
    for (size_t start = 0; start < count; start += 32768) {           \
      size_t end = count - start < 32768 ? count : start + 32768;     \
      counter n = 0;                                                  \
      for (size_t i = start; i < end; i++) n = (counter)(n + (condition)); \
      total += n;                                                     \
    }                                                                 \
  } while (0)

NIBBLE_INLINE uint64_t nibble_nonfinite_loop(nibble_number number, const void *x, size_t count) {
  const uint8_t *u8 = (const uint8_t *)x;
  uint64_t total = 0;
  switch (number) {
    case nibble_f32: NIBBLE_COUNT(uint32_t, (int32_t)(nibble_load32(x, i) & 0x7fffffffu) >= 0x7f800000); break;
    case nibble_f16: NIBBLE_COUNT(uint16_t, (int16_t)(nibble_load16(x, i) & 0x7fffu) >= 0x7c00); break;
    case nibble_bf16: NIBBLE_COUNT(uint16_t, (int16_t)(nibble_load16(x, i) & 0x7fffu) >= 0x7f80); break;
    case nibble_f64: NIBBLE_COUNT(uint64_t, (nibble_load64(x, i) >> 52 & 0x7ff) == 0x7ff); break;
    case nibble_f8_e4m3: NIBBLE_COUNT(uint16_t, (u8[i] & 0x7f) == 0x7f); break;
    case nibble_f8_e5m2: NIBBLE_COUNT(uint16_t, (u8[i] & 0x7f) >= 0x7c); break;
    case nibble_f8_e8m0: NIBBLE_COUNT(uint16_t, u8[i] == 255); break;
    default: break;
  }
  return total;
}
#undef NIBBLE_COUNT

#endif
