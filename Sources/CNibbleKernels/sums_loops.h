// Error and statistics sums in float64, written once with the compiler's vector types; every variant compiles
// them for its own instructions. A chunk with a NaN or infinity is redone element by element.

#ifndef NIBBLE_SUMS_LOOPS_H
#define NIBBLE_SUMS_LOOPS_H

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

typedef float nibble_f32x8 __attribute__((vector_size(32)));
typedef int32_t nibble_i32x8 __attribute__((vector_size(32)));
typedef double nibble_f64x8 __attribute__((vector_size(64)));
typedef int64_t nibble_i64x8 __attribute__((vector_size(64)));

enum { nibble_sums_chunk = 512 };

/// The 64-bit parts are the larger of both, for float64 vectors without NaN.
#define NIBBLE_LARGER(a, b) \
  ((nibble_f64x8)(((nibble_i64x8)(a) & ((a) > (b))) | ((nibble_i64x8)(b) & ~((a) > (b)))))

NIBBLE_INLINE int nibble_finite(float x) { return (nibble_bits(x) & 0x7fffffffu) < 0x7f800000u; }

NIBBLE_INLINE void nibble_difference_each(const float *a, const float *b, size_t count,
                                          nibble_difference_sums *sums) {
  for (size_t i = 0; i < count; i++) {
    float x = nibble_load_f32(a, i), y = nibble_load_f32(b, i);
    sums->unequal += !(x == y || (x != x && y != y));
    if (!nibble_finite(x) || !nibble_finite(y)) {
      sums->nonfinite++;
      continue;
    }
    double da = x, db = y, d = db - da;
    sums->squared_difference += d * d;
    sums->squared_a += da * da;
    sums->squared_b += db * db;
    d = d < 0 ? -d : d;
    da = da < 0 ? -da : da;
    if (d > sums->max_difference) sums->max_difference = d;
    if (da > sums->max_a) sums->max_a = da;
  }
}

NIBBLE_INLINE void nibble_difference_loop(const float *a, const float *b, size_t count,
                                          nibble_difference_sums *sums) {
  const nibble_i64x8 magnitude = (nibble_i64x8){} + INT64_MAX;
  size_t done = 0;
  for (; count - done >= nibble_sums_chunk; done += nibble_sums_chunk) {
    nibble_f64x8 dd = {}, aa = {}, bb = {}, max_d = {}, max_a = {};
    nibble_i32x8 unequal = {}, bad = {};
    for (size_t i = done; i < done + nibble_sums_chunk; i += 8) {
      nibble_f32x8 x, y;
      memcpy(&x, (const char *)a + 4 * i, 32);
      memcpy(&y, (const char *)b + 4 * i, 32);
      unequal += x != y;
      bad |= (((nibble_i32x8)x & 0x7fffffff) > 0x7f7fffff) | (((nibble_i32x8)y & 0x7fffffff) > 0x7f7fffff);
      nibble_f64x8 da = __builtin_convertvector(x, nibble_f64x8), db = __builtin_convertvector(y, nibble_f64x8);
      nibble_f64x8 d = db - da;
      dd += d * d;
      aa += da * da;
      bb += db * db;
      d = (nibble_f64x8)((nibble_i64x8)d & magnitude);
      da = (nibble_f64x8)((nibble_i64x8)da & magnitude);
      max_d = NIBBLE_LARGER(d, max_d);
      max_a = NIBBLE_LARGER(da, max_a);
    }
    int any_bad = 0;
    for (int l = 0; l < 8; l++) any_bad |= bad[l];
    if (any_bad) {
      nibble_difference_each(a + done, b + done, nibble_sums_chunk, sums);
      continue;
    }
    for (int l = 0; l < 8; l++) {
      sums->squared_difference += dd[l];
      sums->squared_a += aa[l];
      sums->squared_b += bb[l];
      sums->max_difference = max_d[l] > sums->max_difference ? max_d[l] : sums->max_difference;
      sums->max_a = max_a[l] > sums->max_a ? max_a[l] : sums->max_a;
      sums->unequal += (uint64_t)-unequal[l];
    }
  }
  nibble_difference_each(a + done, b + done, count - done, sums);
}

NIBBLE_INLINE void nibble_scan_each(const float *p, size_t count, nibble_scan_sums *sums) {
  for (size_t i = 0; i < count; i++) {
    float x = nibble_load_f32(p, i);
    if (!nibble_finite(x)) {
      if (x != x) sums->nans++;
      else sums->infinities++;
      continue;
    }
    sums->zeros += x == 0;
    sums->sum += x;
    sums->sum_of_squares += (double)x * x;
    // Adding 0 makes -0 a +0: which zero came first must not matter.
    if (x < sums->min) sums->min = x + 0.0f;
    if (x > sums->max) sums->max = x + 0.0f;
  }
}

NIBBLE_INLINE void nibble_scan_loop(const float *p, size_t count, nibble_scan_sums *sums) {
  size_t done = 0;
  for (; count - done >= nibble_sums_chunk; done += nibble_sums_chunk) {
    nibble_f64x8 sum = {}, squares = {};
    nibble_f32x8 min = (nibble_f32x8){} + __builtin_inff(), max = (nibble_f32x8){} - __builtin_inff();
    nibble_i32x8 zeros = {}, bad = {};
    for (size_t i = done; i < done + nibble_sums_chunk; i += 8) {
      nibble_f32x8 x;
      memcpy(&x, (const char *)p + 4 * i, 32);
      bad |= ((nibble_i32x8)x & 0x7fffffff) > 0x7f7fffff;
      zeros += x == 0;
      nibble_i32x8 less = x < min, more = x > max;
      min = (nibble_f32x8)(((nibble_i32x8)x & less) | ((nibble_i32x8)min & ~less));
      max = (nibble_f32x8)(((nibble_i32x8)x & more) | ((nibble_i32x8)max & ~more));
      nibble_f64x8 d = __builtin_convertvector(x, nibble_f64x8);
      sum += d;
      squares += d * d;
    }
    int any_bad = 0;
    for (int l = 0; l < 8; l++) any_bad |= bad[l];
    if (any_bad) {
      nibble_scan_each(p + done, nibble_sums_chunk, sums);
      continue;
    }
    for (int l = 0; l < 8; l++) {
      sums->sum += sum[l];
      sums->sum_of_squares += squares[l];
      sums->zeros += (uint64_t)-zeros[l];
      if (min[l] < sums->min) sums->min = min[l] + 0.0f;
      if (max[l] > sums->max) sums->max = max[l] + 0.0f;
    }
  }
  nibble_scan_each(p + done, count - done, sums);
}

#endif
