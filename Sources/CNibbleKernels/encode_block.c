// One block by the letter of the rules: the definition for all corner cases. Slow and plain on purpose.

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { longest = 4096 };

static unsigned count_below(const uint32_t *thresholds, unsigned count, float x) {
  unsigned below = 0;
  for (unsigned i = 0; i < count; i++) below += x > nibble_float(thresholds[i]);
  return below;
}

static unsigned code_of(nibble_code code, int cpu, float s) {
  if (code == nibble_nf4) {
    if (cpu && s != s) return 15;
    return count_below(nibble_nf4_thresholds, 15, s);
  }
  if (!cpu) {
    unsigned position = count_below(nibble_fp4_cuda_thresholds, 7, s < 0 ? -s : s);
    return nibble_fp4_cuda_codes[position] | (s < 0 ? 8 : 0);
  }
  // All signed midpoints strictly below s, in the table's order -1 ... 0, -0 ... 1.
  static const uint8_t order[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
  if (s != s) return order[15];
  unsigned below = s > 0;
  for (unsigned i = 0; i < 7; i++) {
    float midpoint = nibble_float(nibble_fp4_cpu_thresholds[i]);
    below += (s > midpoint) + (s > -midpoint);
  }
  return order[below];
}

static float value_of(nibble_code code, unsigned c) {
  if (code == nibble_nf4) return nibble_float(nibble_nf4_values[c]);
  unsigned position = 0;
  while (nibble_fp4_cuda_codes[position] != c) position++;
  return nibble_float(nibble_fp4_values[position]);
}

/// Packs; `last` fills the low nibble an odd count leaves.
static void pack(const uint8_t *c, size_t count, unsigned last, uint8_t *codes) {
  for (size_t i = 0; i < count; i += 2)
    codes[i / 2] = (uint8_t)(c[i] << 4 | (i + 1 < count ? c[i + 1] : last));
}

static void sum_moments(nibble_code code, const float *s, const uint8_t *c, size_t count, float *moments) {
  double ee = 0, eq = 0, qq = 0;
  float values[16];
  for (unsigned i = 0; i < 16; i++) values[i] = value_of(code, i);
  for (size_t i = 0; i < count; i++) {
    double q = values[c[i]], e = (double)s[i] - q;
    ee += e * e;
    eq += e * q;
    qq += q * q;
  }
  nibble_store_f32(moments, 0, (float)ee);
  nibble_store_f32(moments, 1, (float)eq);
  nibble_store_f32(moments, 2, (float)qq);
}

static void zero_block(size_t count, unsigned c, unsigned last, uint8_t *codes, float *moments) {
  memset(codes, (int)(c << 4 | c), count / 2);
  if (count % 2) codes[count / 2] = (uint8_t)(c << 4 | last);
  if (moments) memset((char *)moments, 0, 3 * sizeof(float));
}

void nibble_encode_zeros(nibble_code code, nibble_rules rules, size_t count, uint8_t *codes, float *moments) {
  // CUDA scales zeros by 1 / 0, and NaN is above no threshold.
  unsigned c = code == nibble_nf4 && rules != nibble_cuda ? 7 : 0;
  zero_block(count, c, c, codes, moments);
}

/// The max of |x| without NaN, and how many elements are NaN and not finite.
static float maximum(const float *x, size_t count, size_t *nans, size_t *nonfinite) {
  uint32_t max = 0;
  *nans = *nonfinite = 0;
  for (size_t i = 0; i < count; i++) {
    uint32_t a = nibble_bits(x[i]) & 0x7fffffffu;
    *nonfinite += a >= NIBBLE_INFINITY_BITS;
    if (a > NIBBLE_INFINITY_BITS)
      ++*nans;
    else if (a > max)
      max = a;
  }
  return nibble_float(max);
}

static float clamp(float s) { return s < -1.0f ? -1.0f : s > 1.0f ? 1.0f : s; }

void nibble_encode_block(nibble_code code, nibble_rules rules, const float *x, size_t count, int full,
                         uint8_t *codes, float *absmax, float *moments, nibble_encode_counts *counts) {
  size_t nans, nonfinite;
  float max = maximum(x, count, &nans, &nonfinite);
  int cpu = rules == nibble_cpu, zero = max == 0 && nans == 0;
  counts->nonfinite += nonfinite;
  counts->zero_blocks += zero;

  float a = max, inverse;
  unsigned of_zero = code == nibble_nf4 ? 7 : 0, last = of_zero;
  if (cpu) {
    float floored = max > 1e-38f ? max : 1e-38f;
    if (nans) a = floored = nibble_float(0x7fc00000u);
    else if (!full) a = floored;
    inverse = 1.0f / floored;
  } else {
    if (nans == count) a = nibble_float(0x7fc00000u);
    inverse = 1.0f / a;
    // The kernel pads with zeros, so the padding's code is that of 0 * inverse.
    if (rules == nibble_cuda) last = code_of(code, 0, 0.0f * inverse);
  }
  nibble_store_f32(absmax, 0, a);
  if (zero) {
    zero_block(count, rules == nibble_cuda ? code_of(code, 0, 0.0f * inverse) : of_zero, last, codes, moments);
    return;
  }

  float s[longest];
  uint8_t c[longest];
  for (size_t i = 0; i < count; i++) {
    s[i] = cpu && !full ? x[i] / a : x[i] * inverse;
    if (cpu) s[i] = clamp(s[i]);
    c[i] = (uint8_t)code_of(code, cpu, s[i]);
  }
  pack(c, count, last, codes);
  if (!moments) return;
  // Below 2^-128 the reciprocal is infinite: report the true scaled elements instead of its NaN.
  if (inverse > 0x1.fffffep127f)
    for (size_t i = 0; i < count; i++) s[i] = x[i] / a;
  sum_moments(code, s, c, count, moments);
}

void nibble_encode_block_scaled(nibble_code code, const float *x, size_t count, float scale, uint8_t *codes,
                                float *moments, nibble_encode_counts *counts) {
  size_t nans, nonfinite;
  float max = maximum(x, count, &nans, &nonfinite);
  counts->nonfinite += nonfinite;
  counts->zero_blocks += max == 0 && nans == 0;
  unsigned of_zero = code == nibble_nf4 ? 7 : 0;
  if (scale == 0) {
    zero_block(count, of_zero, of_zero, codes, moments);
    return;
  }
  float s[longest], inverse = 1.0f / scale;
  uint8_t c[longest];
  for (size_t i = 0; i < count; i++) {
    s[i] = x[i] * inverse;
    c[i] = (uint8_t)code_of(code, 0, s[i]);
  }
  pack(c, count, of_zero, codes);
  if (moments) sum_moments(code, s, c, count, moments);
}
