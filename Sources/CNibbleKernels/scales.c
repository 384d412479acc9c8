// The second stage of double quantization: 8-bit codes of the absmax values, and their sum.

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { longest = 4096 };

double nibble_sum(const float *x, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; i++) sum += nibble_load_f32(x, i);
  return sum;
}

static float next_below(float x) {
  uint32_t bits = nibble_bits(x);
  if (x == 0) return nibble_float(0x80000001u);
  return nibble_float(x > 0 ? bits - 1 : bits + 1);
}

static unsigned code_from(const float threshold[256], unsigned code, float s) {
  while (s > threshold[code]) code++;
  return code;
}

void nibble_make_scale_tables(const float map[256], nibble_scale_tables *tables) {
  float midpoint[256];
  for (int c = 0; c < 255; c++) {
    midpoint[c] = 0.5f * (nibble_load_f32(map, c) + nibble_load_f32(map, c + 1));
    // A tie goes to the even code: up from an odd one.
    tables->threshold[c] = c & 1 ? next_below(midpoint[c]) : midpoint[c];
  }
  midpoint[255] = tables->threshold[255] = __builtin_inff();
  memset(tables->first, 0, sizeof tables->first);
  // Upwards through the finite numbers; negative ones grow towards zero as their bits fall. The bucket of -inf
  // keeps 0, and NaN has its own check.
  unsigned code = 0;
  for (uint32_t bucket = 0xff7f; bucket >= 0x8000; bucket--) {
    code = code_from(tables->threshold, code, nibble_float(bucket << 16 | 0xffff));
    tables->first[bucket] = (uint8_t)code;
  }
  for (uint32_t bucket = 0; bucket <= 0x7f80; bucket++) {
    code = code_from(tables->threshold, code, nibble_float(bucket << 16));
    tables->first[bucket] = (uint8_t)code;
  }
  code = 0;
  for (uint32_t i = 0; i < 65536; i++) {
    float point = -1.0f + 2.0f * (float)i / 65535.0f;
    code = code_from(midpoint, code, point);
    tables->grid[i] = (uint8_t)code;
  }
}

static uint8_t nearest_code(const nibble_scale_tables *tables, float s) {
  unsigned code = tables->first[nibble_bits(s) >> 16];
  // Maps in use have at most one threshold in a bucket: one step without a branch nearly always ends it.
  code += s > tables->threshold[code];
  code = code_from(tables->threshold, code, s);
  return (uint8_t)(s != s ? 0 : code);
}

static uint8_t grid_code(const nibble_scale_tables *tables, float s) {
  float clamped = s < -1.0f ? -1.0f : s > 1.0f ? 1.0f : s;
  float index = (clamped + 1.0f) * 0.5f * 65535.0f + 0.5f;
  return tables->grid[s != s ? 0 : (uint32_t)index & 0xffffu];
}

/// d = absmax - offset, and the bits of max|d|: a NaN wins, as in numpy and torch.
static uint32_t differences(const float *absmax, size_t count, float offset, float *d) {
  int32_t max = 0;
  for (size_t i = 0; i < count; i++) {
    d[i] = nibble_load_f32(absmax, i) - offset;
    int32_t a = (int32_t)(nibble_bits(d[i]) & 0x7fffffffu);
    max = a > max ? a : max;
  }
  return (uint32_t)max;
}

void nibble_encode_scale_codes(const nibble_scale_tables *tables, nibble_rules rules, const float *absmax,
                               size_t count, float offset, size_t block, uint8_t *codes,
                               float *nested_absmax) {
  float d[longest];
  for (size_t first = 0, b = 0; first < count; first += block, b++) {
    size_t n = count - first < block ? count - first : block;
    uint32_t max = 0;
    for (size_t i = 0; i < n; i += longest) {
      size_t part = n - i < longest ? n - i : longest;
      uint32_t bits = differences(absmax + first + i, part, offset, d);
      max = bits > max ? bits : max;
    }
    if (max > NIBBLE_INFINITY_BITS) max = 0x7fc00000u;
    nibble_store_f32(nested_absmax, b, nibble_float(max));
    if (max == 0) {
      memset(codes + first, 0, n);
      continue;
    }
    float inverse = 1.0f / nibble_float(max);
    for (size_t i = 0; i < n; i += longest) {
      size_t part = n - i < longest ? n - i : longest;
      if (n > longest) differences(absmax + first + i, part, offset, d);
      for (size_t j = 0; j < part; j++) d[j] *= inverse;
      uint8_t *to = codes + first + i;
      if (rules == nibble_cpu)
        for (size_t j = 0; j < part; j++) to[j] = grid_code(tables, d[j]);
      else
        for (size_t j = 0; j < part; j++) to[j] = nearest_code(tables, d[j]);
    }
  }
}

void nibble_decode_scale_codes(const float map[256], const uint8_t *codes, size_t count,
                               const float *nested_absmax, size_t block, float offset, float *absmax) {
  for (size_t first = 0, b = 0; first < count; first += block, b++) {
    size_t n = count - first < block ? count - first : block;
    float scale = nibble_load_f32(nested_absmax, b);
    for (size_t i = first; i < first + n; i++) {
      float product = nibble_load_f32(map, codes[i]) * scale;
      nibble_store_f32(absmax, i, product + offset);
    }
  }
}
