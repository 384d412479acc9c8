// A vector of floats as wide as the variant's registers, with the compiler's vector types, and functions of it.
//
// A file that includes this defines before: NIBBLE_LANES, the floats of a register (4, 8 or 16); LANES_TARGET, the
// attribute that chooses the instructions; LANES_OWN_PARTS if it has its own lanes_load_part and
// lanes_store_part; and LANES_OWN_SCALE if it has its own lanes_scale.

#ifndef NIBBLE_LANES_H
#define NIBBLE_LANES_H

#include "bits.h"

// Rounding may differ between variants here, so products and sums may fuse where the instructions exist.
#pragma STDC FP_CONTRACT ON
// Vectors wider than the registers never cross a call that is not inlined.
#pragma clang diagnostic ignored "-Wpsabi"

#define LANES_INLINE static inline __attribute__((always_inline)) LANES_TARGET
#define LANES_STATIC static LANES_TARGET

typedef float lanes __attribute__((vector_size(4 * NIBBLE_LANES)));
typedef int32_t lanes_i __attribute__((vector_size(4 * NIBBLE_LANES)));
typedef double lanes_d __attribute__((vector_size(8 * NIBBLE_LANES)));
typedef float lanes_four __attribute__((vector_size(16)));

LANES_INLINE lanes lanes_all(float x) { return (lanes){} + x; }

LANES_INLINE lanes lanes_load(const float *p) {
  lanes v;
  memcpy(&v, p, sizeof v);
  return v;
}

LANES_INLINE void lanes_store(float *p, lanes v) { memcpy(p, &v, sizeof v); }

#if !defined(LANES_OWN_PARTS)
/// The first n lanes from memory, the others 0; nothing else is read.
LANES_INLINE lanes lanes_load_part(const float *p, size_t n) {
  lanes v = {};
  for (size_t l = 0; l < NIBBLE_LANES; l++)
    if (l < n) v[l] = p[l];
  return v;
}

LANES_INLINE void lanes_store_part(float *p, lanes v, size_t n) {
  for (size_t l = 0; l < NIBBLE_LANES; l++)
    if (l < n) p[l] = v[l];
}
#endif

LANES_INLINE lanes lanes_pick(lanes_i which, lanes a, lanes b) {
  return (lanes)((which & (lanes_i)a) | (~which & (lanes_i)b));
}

/// The lanes from `n` on replaced by `other`.
LANES_INLINE lanes lanes_keep(lanes v, size_t n, float other) {
  lanes_i number;
  for (int l = 0; l < NIBBLE_LANES; l++) number[l] = l;
  return lanes_pick(number < (int32_t)n, v, lanes_all(other));
}

/// The larger, and b where a is NaN.
LANES_INLINE lanes lanes_max(lanes a, lanes b) { return lanes_pick(a > b, a, b); }

LANES_INLINE float lanes_greatest(lanes v) {
  float greatest = v[0];
  for (int l = 1; l < NIBBLE_LANES; l++) greatest = v[l] > greatest ? v[l] : greatest;
  return greatest;
}

LANES_INLINE int lanes_any(lanes_i v) {
  int32_t any = 0;
  for (int l = 0; l < NIBBLE_LANES; l++) any |= v[l];
  return any != 0;
}

LANES_INLINE double lanes_sum_d(const lanes_d *v) {
  double sum = 0;
  for (int l = 0; l < NIBBLE_LANES; l++) sum += (*v)[l];
  return sum;
}

/// exp(r) - 1 = r + r^2 lanes_exp_rest(r) for |r| <= ln(2) / 2, to 3e-9 of exp(r).
LANES_INLINE lanes lanes_exp_rest(lanes r) {
  lanes p = r * 0x1.6a21a8p-10f + 0x1.123b6ap-7f;
  p = p * r + 0x1.5558fcp-5f;
  p = p * r + 0x1.55549p-3f;
  return p * r + 0x1.fffffcp-2f;
}

/// x = n ln(2) + r with n whole, as a float. Adding 1.5 * 2^23 rounds to a whole number. The first part of ln(2) has few
/// bits, so that its multiples are exact.
LANES_INLINE lanes lanes_exp_reduce(lanes x, lanes *n) {
  *n = (x * 0x1.715476p0f + 0x1.8p23f) - 0x1.8p23f;
  lanes r = x - *n * 0x1.63p-1f;
  return r + *n * 0x1.bd0106p-13f;
}

/// 2^n for whole n of normal results; the addition leaves n in the low bits.
LANES_INLINE lanes lanes_power_of_two(lanes n) { return (lanes)(((lanes_i)(n + 0x1.8p23f) + 127) << 23); }

#if !defined(LANES_OWN_SCALE)
/// p 2^n, where n may be too much for a factor; in two factors, of which only the second may round.
LANES_INLINE lanes lanes_scale(lanes p, lanes n) {
  lanes_i whole = (lanes_i)(n + 0x1.8p23f) - 0x4b400000;
  lanes_i half = whole >> 1;
  return p * (lanes)((half + 127) << 23) * (lanes)((whole - half + 127) << 23);
}
#endif

/// exp, within 2 units in the last place; subnormal, 0 and infinite results too, NaN stays.
LANES_INLINE lanes lanes_exp(lanes x) {
  // Beyond these the result is infinite or rounds to 0 anyway.
  x = lanes_pick(x > 89.0f, lanes_all(89.0f), x);
  x = lanes_pick(x < -104.0f, lanes_all(-104.0f), x);
  lanes n;
  lanes r = lanes_exp_reduce(x, &n);
  lanes p = (r * r * lanes_exp_rest(r) + r) + 1.0f;
  return lanes_scale(p, n);
}

/// tanh from e = exp(2x) - 1 as e / (e + 2), which keeps the digits of small x.
LANES_INLINE lanes lanes_tanh(lanes x) {
  x = lanes_pick(x > 10.0f, lanes_all(10.0f), x);
  x = lanes_pick(x < -10.0f, lanes_all(-10.0f), x);
  lanes n;
  lanes r = lanes_exp_reduce(x + x, &n);
  lanes power = lanes_power_of_two(n);
  lanes e = power * (r * r * lanes_exp_rest(r) + r) + (power - 1.0f);
  return e / (e + 2.0f);
}

/// (1 + erf(x / sqrt 2)) / 2, the share of a normal distribution below x, to 1e-7. For x < 0 it is erfc(|x| / sqrt 2) / 2
/// = exp(-x^2 / 2) times a polynomial of 1 / (1 + 0.21 |x|), so that small results have their digits too; for x > 0 what is
/// missing to 1.
LANES_INLINE lanes lanes_normal_share(lanes x) {
  lanes a = (lanes)((lanes_i)x & 0x7fffffff);
  a = lanes_pick(a > 20.0f, lanes_all(20.0f), a);
  lanes t = 1.0f / (1.0f + 0.21f * a);
  lanes p = t * -0.0709451213479042f + 0.28008154034614563f;
  p = p * t - 0.3228699564933777f;
  p = p * t + 0.34074637293815613f;
  p = p * t - 0.08775688707828522f;
  p = p * t + 0.1221393570303917f;
  p = p * t + 0.06992670148611069f;
  p = p * t + 0.08495952188968658f;
  p = p * t + 0.08371847122907639f;
  lanes beyond = p * t * lanes_exp(a * a * -0.5f);
  return lanes_pick(x < 0.0f, beyond, 1.0f - beyond);
}

#if NIBBLE_LANES == 4
#define LANES_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define LANES_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#define LANES_JOIN_LOW(a, b) __builtin_shufflevector(a, b, 0, 1, 4, 5)
#define LANES_JOIN_HIGH(a, b) __builtin_shufflevector(a, b, 2, 3, 6, 7)
#elif NIBBLE_LANES == 8
#define LANES_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define LANES_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LANES_JOIN_LOW(a, b) __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define LANES_JOIN_HIGH(a, b) __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#else
#define LANES_ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define LANES_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LANES_JOIN_LOW(a, b) __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define LANES_JOIN_HIGH(a, b) __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#endif

/// The sums of the lanes of four vectors.
LANES_INLINE lanes_four lanes_sum_four(const lanes v[4]) {
  lanes a = LANES_ZIP_LOW(v[0], v[1]) + LANES_ZIP_HIGH(v[0], v[1]);
  lanes b = LANES_ZIP_LOW(v[2], v[3]) + LANES_ZIP_HIGH(v[2], v[3]);
  lanes s = LANES_JOIN_LOW(a, b) + LANES_JOIN_HIGH(a, b);
#if NIBBLE_LANES == 16
  lanes_four low = __builtin_shufflevector(s, s, 0, 1, 2, 3) + __builtin_shufflevector(s, s, 8, 9, 10, 11);
  lanes_four high = __builtin_shufflevector(s, s, 4, 5, 6, 7) + __builtin_shufflevector(s, s, 12, 13, 14, 15);
  return low + high;
#elif NIBBLE_LANES == 8
  return __builtin_shufflevector(s, s, 0, 1, 2, 3) + __builtin_shufflevector(s, s, 4, 5, 6, 7);
#else
  return s;
#endif
}

#endif
