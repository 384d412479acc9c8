// Blocks of ggml whose scales are searched for with an importance of each column, as loops that each variant compiles for its own
// instructions: what ggml's quantizers do with an importance matrix, bit for bit.
//
// Before this file come the definitions of lanes.h.

#include "ggml_search_loops.h"

#pragma STDC FP_CONTRACT OFF

// MARK: Weights

/// Numbers whose squares are looked at together: a row, or a block where blocks are of 256 or have levels.
LANES_INLINE size_t ggml_span(nibble_ggml type, size_t columns) {
  const size_t numbers = nibble_ggml_layout_of(type).numbers;
  return type == nibble_iq4_nl || numbers > 32 ? numbers : columns;
}

/// The sums of squares of up to as many spans as there are lanes, each in order.
LANES_STATIC void ggml_sum_squares(const float *x, size_t span, size_t spans, float *out) {
  lanes sum = {};
  for (size_t at = 0; at < span; at += 32) {
    float across[32 * NIBBLE_LANES];
    for (size_t lane = 0; lane < NIBBLE_LANES; lane++) {
      const float *from = x + (lane < spans ? lane : spans - 1) * span + at;
      for (size_t i = 0; i < 32; i++) across[i * NIBBLE_LANES + lane] = from[i];
    }
    for (size_t i = 0; i < 32; i++) {
      const lanes v = lanes_load(across + i * NIBBLE_LANES);
      sum += v * v;
    }
  }
  lanes_store(out, sum);
}

/// What is added to the square of a number, of the sum of squares of its span.
LANES_INLINE float ggml_spread(nibble_ggml type, float sum, size_t span) {
  switch (type) {
    case nibble_q3_k:
    case nibble_q4_k:
    case nibble_q5_k: return 2 * sum / 256;
    case nibble_iq4_nl:
    case nibble_iq4_xs: return sum * (2.0f / (float)span);
    default: return sum / (float)span;
  }
}

LANES_INLINE void ggml_weigh(const float *x, const float *importance, float spread, size_t n, float *out) {
  for (size_t i = 0; i < n; i++) out[i] = importance[i] * __builtin_sqrtf(spread + x[i] * x[i]);
}

// MARK: Scales of groups

/// Codes from 0 to `top` for the scales, or minima, of `n` groups of a block, and what they are multiplied by; blocks side by side. ggml's
/// make_qp_quants, whose codes are bytes whatever they were.
LANES_INLINE void ggml_fit_positive(const float *numbers, const float *given, int n, int32_t top, size_t blocks, float *scales,
                                    uint8_t *stored) {
  enum { most_groups = 16 };
  lanes x[most_groups], weights[most_groups], greatest = {};
  lanes_i codes[most_groups];
  const lanes zero = {};
  const lanes_i most = (lanes_i){} + top;
  ggml_load_groups(numbers, n, blocks, x);
  ggml_load_groups(given, n, blocks, weights);
  for (int i = 0; i < n; i++) greatest = lanes_pick(greatest > x[i], greatest, x[i]);
  const lanes_i tiny = greatest < NIBBLE_GGML_ZERO;
  lanes step = (float)top / greatest, scale = 1.0f / step, least = zero;
  for (int i = 0; i < n; i++) {
    const lanes error = x[i] - scale * __builtin_convertvector(ggml_nearest_lanes(step * x[i]) & 255, lanes);
    least += weights[i] * error * error;
  }
  for (int k = -4; k <= 4; k++) {
    if (k == 0) continue;
    const lanes other = (0.1f * (float)k + (float)top) / greatest, size = 1.0f / other;
    lanes sum = zero;
    for (int i = 0; i < n; i++) {
      const lanes_i code = __builtin_elementwise_min(ggml_nearest_lanes(other * x[i]), most);
      const lanes error = x[i] - size * __builtin_convertvector(code, lanes);
      sum += weights[i] * error * error;
    }
    const lanes_i better = sum < least;
    least = lanes_pick(better, sum, least);
    step = lanes_pick(better, other, step);
  }
  lanes xl = zero, ll = zero;
  for (int i = 0; i < n; i++) {
    const lanes_i code = __builtin_elementwise_min(ggml_nearest_lanes(step * x[i]), most);
    const lanes value = __builtin_convertvector(code, lanes);
    codes[i] = code & 255;
    xl += weights[i] * x[i] * value;
    ll += weights[i] * value * value;
  }
  for (int pass = 0; pass < 5; pass++) {
    lanes_i changed = {};
    for (int i = 0; i < n; i++) {
      const lanes value = __builtin_convertvector(codes[i], lanes);
      lanes rest_xl = xl - weights[i] * x[i] * value, rest_ll = ll - weights[i] * value * value;
      const lanes_i code = __builtin_elementwise_min(ggml_nearest_lanes(x[i] * rest_ll / rest_xl), most);
      const lanes other = __builtin_convertvector(code, lanes);
      lanes_i moves = (rest_xl > 0) & (rest_ll > 0) & (code != codes[i]);
      rest_xl += weights[i] * x[i] * other;
      rest_ll += weights[i] * other * other;
      moves &= rest_xl * rest_xl * ll > xl * xl * rest_ll;
      codes[i] = (moves & code & 255) | (~moves & codes[i]);
      xl = lanes_pick(moves, rest_xl, xl);
      ll = lanes_pick(moves, rest_ll, ll);
      changed |= moves;
    }
    if (!lanes_any(changed)) break;
  }
  ggml_store_groups(lanes_pick(tiny | ~(ll > 0), zero, xl / ll), blocks, scales);
  for (int i = 0; i < n; i++) {
    const lanes_i code = ~tiny & codes[i];
    for (size_t lane = 0; lane < blocks && lane < NIBBLE_LANES; lane++) stored[(size_t)n * lane + (size_t)i] = (uint8_t)code[lane];
  }
}

// MARK: Some blocks

/// q4_0, and q5_0 with `half` 16.
LANES_STATIC void ggml_weighted_signed(const float *x, const float *w, size_t blocks, int32_t half, uint8_t *out) {
  ggml_groups found;
  ggml_fit_scales(x, w, 32, half, blocks, &found, 0);
  for (size_t k = 0; k < blocks; k++) {
    uint8_t codes[32], *b = out + (half > 8 ? 22 : 18) * k;
    ggml_scaled_codes(x + 32 * k, 32, &found, (int)k, half, codes);
    nibble_store16(b, 0, nibble_to_f16(found.scale[k]));
    if (half > 8) nibble_store_fifth_bits(codes, b + 2);
    nibble_store_halves(codes, b + (half > 8 ? 6 : 2));
  }
}

/// q4_1, and q5_1 with `top` 31.
LANES_STATIC void ggml_weighted_ranges(const float *x, const float *w, size_t blocks, int32_t top, uint8_t *out) {
  ggml_groups found;
  ggml_fit_ranges(x, w, 32, top, 0, -0.9f, 0.05f, 36, blocks, &found, 0);
  for (size_t k = 0; k < blocks; k++) {
    uint8_t codes[32], *b = out + (top > 15 ? 24 : 20) * k;
    ggml_found_codes(x + 32 * k, 32, &found, (int)k, top, codes);
    nibble_store16(b, 0, nibble_to_f16(found.scale[k]));
    nibble_store16(b, 1, nibble_to_f16(-found.minimum[k]));
    if (top > 15) nibble_store_fifth_bits(codes, b + 4);
    nibble_store_halves(codes, b + (top > 15 ? 8 : 4));
  }
}

/// q4_k, and q5_k with `top` 31.
LANES_STATIC void ggml_weighted_groups(const float *x, const float *w, size_t blocks, int32_t top, uint8_t *out) {
  const size_t bytes = top > 15 ? 176 : 144;
  ggml_groups found;
  float scales[NIBBLE_LANES], minima[NIBBLE_LANES];
  uint8_t s[8 * NIBBLE_LANES], m[8 * NIBBLE_LANES];
  for (size_t g = 0; g < 8 * blocks; g += NIBBLE_LANES)
    ggml_fit_ranges(x + 32 * g, w + 32 * g, 32, top, 0, -0.9f, 0.05f, 36, 8 * blocks - g, &found, g);
  ggml_fit_positive(found.scale, found.weight, 8, 63, blocks, scales, s);
  ggml_fit_positive(found.minimum, found.weight, 8, 63, blocks, minima, m);
  for (size_t k = 0; k < blocks; k++) {
    uint8_t *b = out + bytes * k;
    if (top > 15)
      for (size_t i = 8 * k; i < 8 * k + 8; i++) s[i] = s[i] < 63 ? s[i] : 63, m[i] = m[i] < 63 ? m[i] : 63;
    nibble_store16(b, 0, nibble_to_f16(scales[k]));
    nibble_store16(b, 1, nibble_to_f16(minima[k]));
    ggml_store_six_bits(s + 8 * k, m + 8 * k, b + 4);
    ggml_finish_ranges(x + 256 * k, &found, (int)(8 * k), top, b);
  }
}

LANES_STATIC void ggml_weighted_q2_k(const float *x, const float *w, size_t blocks, uint8_t *out) {
  ggml_groups found;
  float scales[NIBBLE_LANES], minima[NIBBLE_LANES];
  uint8_t s[16 * NIBBLE_LANES], m[16 * NIBBLE_LANES];
  for (size_t g = 0; g < 16 * blocks; g += NIBBLE_LANES)
    ggml_fit_ranges(x + 16 * g, w + 16 * g, 16, 3, 0, -0.9f, 0.05f, 36, 16 * blocks - g, &found, g);
  ggml_fit_positive(found.scale, found.weight, 16, 15, blocks, scales, s);
  ggml_fit_positive(found.minimum, found.weight, 16, 15, blocks, minima, m);
  for (size_t k = 0; k < blocks; k++) {
    uint8_t *b = out + 84 * k;
    for (size_t i = 0; i < 16; i++) b[i] = (uint8_t)(s[16 * k + i] | m[16 * k + i] << 4);
    nibble_store16(b + 80, 0, nibble_to_f16(scales[k]));
    nibble_store16(b + 80, 1, nibble_to_f16(minima[k]));
    ggml_finish_q2_k(x + 256 * k, &found, (int)(16 * k), b);
  }
}

LANES_STATIC void ggml_weighted_q3_k(const float *x, const float *w, size_t blocks, uint8_t *out) {
  ggml_groups found, whole;
  for (size_t g = 0; g < 16 * blocks; g += NIBBLE_LANES)
    ggml_fit_scales(x + 16 * g, w + 16 * g, 16, 4, 16 * blocks - g, &found, g);
  ggml_fit_scales(found.scale, found.weight, 16, 32, blocks, &whole, 0);
  for (size_t k = 0; k < blocks; k++) {
    uint8_t codes[256], s[16], *b = out + 110 * k;
    memset(b, 0, 110);
    ggml_scaled_codes(found.scale + 16 * k, 16, &whole, (int)k, 32, s);
    for (int group = 0; group < 16; group++) {
      ggml_store_q3_scale(group, s[group], b + 96);
      ggml_scaled_codes(x + 256 * k + 16 * group, 16, &found, (int)(16 * k) + group, 4, codes + 16 * group);
    }
    nibble_store16(b + 108, 0, nibble_to_f16(whole.scale[k]));
    ggml_finish_q3_k(x + 256 * k, codes, b);
  }
}

LANES_STATIC void ggml_weighted_q6_k(const float *x, const float *w, size_t blocks, uint8_t *out) {
  ggml_groups found;
  for (size_t g = 0; g < 16 * blocks; g += NIBBLE_LANES)
    ggml_fit_scales(x + 16 * g, w + 16 * g, 16, 32, 16 * blocks - g, &found, g);
  for (size_t k = 0; k < blocks; k++) ggml_finish_q6_k(x + 256 * k, &found, (int)(16 * k), out + 210 * k);
}

LANES_STATIC void ggml_weighted_iq4_nl(const float *x, const float *w, size_t blocks, uint8_t *out) {
  float scales[NIBBLE_LANES];
  ggml_fit_levels(x, w, blocks, scales);
  for (size_t k = 0; k < blocks; k++) {
    nibble_store16(out + 18 * k, 0, nibble_to_f16(scales[k]));
    ggml_iq4_codes(x + 32 * k, nibble_reciprocal(scales[k]), out + 18 * k + 2);
  }
}

LANES_STATIC void ggml_weighted_iq4_xs(const float *x, const float *w, size_t blocks, uint8_t *out) {
  float scales[8 * NIBBLE_LANES];
  for (size_t g = 0; g < 8 * blocks; g += NIBBLE_LANES) ggml_fit_levels(x + 32 * g, w + 32 * g, 8 * blocks - g, scales + g);
  for (size_t k = 0; k < blocks; k++) ggml_finish_iq4_xs(x + 256 * k, scales + 8 * k, out + 136 * k);
}

/// As many blocks as there are lanes at most, with the weight of each number.
LANES_INLINE void ggml_encode_some(nibble_ggml type, const float *x, const float *w, size_t blocks, uint8_t *out) {
  switch (type) {
    case nibble_q4_0: ggml_weighted_signed(x, w, blocks, 8, out); break;
    case nibble_q5_0: ggml_weighted_signed(x, w, blocks, 16, out); break;
    case nibble_q4_1: ggml_weighted_ranges(x, w, blocks, 15, out); break;
    case nibble_q5_1: ggml_weighted_ranges(x, w, blocks, 31, out); break;
    case nibble_q2_k: ggml_weighted_q2_k(x, w, blocks, out); break;
    case nibble_q3_k: ggml_weighted_q3_k(x, w, blocks, out); break;
    case nibble_q4_k: ggml_weighted_groups(x, w, blocks, 15, out); break;
    case nibble_q5_k: ggml_weighted_groups(x, w, blocks, 31, out); break;
    case nibble_q6_k: ggml_weighted_q6_k(x, w, blocks, out); break;
    case nibble_iq4_nl: ggml_weighted_iq4_nl(x, w, blocks, out); break;
    case nibble_iq4_xs: ggml_weighted_iq4_xs(x, w, blocks, out); break;
    // These have nothing to search for.
    case nibble_q8_0:
    case nibble_mxfp4: break;
  }
}

// MARK: Rows

LANES_STATIC void ggml_encode_rows(nibble_ggml type, const float *x, const float *importance, size_t columns, size_t count, uint8_t *out,
                                   nibble_ggml_counts *counts) {
  const nibble_ggml_layout layout = nibble_ggml_layout_of(type);
  const size_t numbers = layout.numbers, span = ggml_span(type, columns), spans = count * numbers / span;
  for (size_t s = 0; s < spans; s += NIBBLE_LANES) {
    const size_t together = spans - s < NIBBLE_LANES ? spans - s : NIBBLE_LANES;
    float squares[NIBBLE_LANES], w[NIBBLE_LANES * nibble_ggml_most];
    ggml_sum_squares(x + s * span, span, together, squares);
    const size_t first = s * span / numbers, end = (s + together) * span / numbers;
    for (size_t b = first; b < end; b += NIBBLE_LANES) {
      const size_t blocks = end - b < NIBBLE_LANES ? end - b : NIBBLE_LANES;
      for (size_t k = 0; k < blocks; k++) {
        const size_t at = (b + k) * numbers;
        const float *own = importance + at % columns;
        if (type == nibble_q6_k) memcpy(w + k * numbers, own, 4 * numbers);
        else ggml_weigh(x + at, own, ggml_spread(type, squares[at / span - s], span), numbers, w + k * numbers);
      }
      ggml_encode_some(type, x + b * numbers, w, blocks, out + b * layout.bytes);
    }
  }
  for (size_t i = 0; i < count; i++) nibble_note(layout, x + i * numbers, out + i * layout.bytes, counts);
}

#define NIBBLE_GGML_TABLE {.decode = ggml_decode_blocks, .encode = ggml_encode_blocks, .encode_rows = ggml_encode_rows}
