// The blocks of ggml whose scales are searched for: k-quants and iq4, as loops that each variant compiles for its own instructions.
//
// ggml adds up in order, a number at a time, so nothing within a group can be done side by side. Groups can: each has a lane of its own
// here, and its sums are ggml's to the bit. What a lane would not have done is undone by picking.
//
// Before this file come the definitions of lanes.h.

#include "ggml_decode_loops.h"
#include "ggml_encode_loops.h"
#include "lanes.h"

#pragma STDC FP_CONTRACT OFF

// MARK: Whole numbers

/// What lies below this counts as zero.
#define NIBBLE_GGML_ZERO 1e-15f

/// ggml's rounding to the nearest whole number, ties to even: the low bits of a sum with 1.5 * 2^23. Of numbers that are too large for it
/// other bits come, the same as there.
LANES_INLINE int32_t ggml_nearest(float v) { return (int32_t)(nibble_bits(v + 12582912.0f) & 0x7fffffu) - 0x400000; }

LANES_INLINE int32_t ggml_within(int32_t v, int32_t low, int32_t high) {
  v = v < high ? v : high;
  return v > low ? v : low;
}

/// The same, side by side.
LANES_INLINE lanes_i ggml_nearest_lanes(lanes v) { return ((lanes_i)(v + 12582912.0f) & 0x7fffff) - 0x400000; }

/// Codes of a group as floats.
LANES_INLINE lanes ggml_codes_lanes(lanes v, int32_t low, int32_t high) {
  lanes_i code = __builtin_elementwise_min(ggml_nearest_lanes(v), (lanes_i){} + high);
  return __builtin_convertvector(__builtin_elementwise_max(code, (lanes_i){} + low), lanes);
}

LANES_INLINE lanes ggml_magnitude(lanes v) { return (lanes)((lanes_i)v & 0x7fffffff); }

// MARK: Groups side by side

/// Blocks of 256 have 8 or 16 groups; weighted ones are searched as many at a time as there are lanes.
enum { ggml_longest_group = 32, ggml_most_groups = 16 * (NIBBLE_LANES > 2 ? NIBBLE_LANES : 2) };

/// Groups of `n` numbers, one after another in memory, a lane each; lanes beyond the last group repeat it.
LANES_INLINE void ggml_load_groups(const float *x, int n, size_t groups, lanes *out) {
  float across[ggml_longest_group * NIBBLE_LANES];
  for (size_t lane = 0; lane < NIBBLE_LANES; lane++) {
    const float *group = x + (lane < groups ? lane : groups - 1) * (size_t)n;
    for (int i = 0; i < n; i++) across[(size_t)i * NIBBLE_LANES + lane] = group[i];
  }
  for (int i = 0; i < n; i++) out[i] = lanes_load(across + i * NIBBLE_LANES);
}

LANES_INLINE void ggml_store_groups(lanes v, size_t groups, float *out) {
  float all[NIBBLE_LANES];
  lanes_store(all, v);
  for (size_t i = 0; i < groups && i < NIBBLE_LANES; i++) out[i] = all[i];
}

/// What is found of groups: a scale each, the least number (negative) whose opposite is stored, and what gives the codes that belong to
/// them: nearest((x - base) * step).
typedef struct {
  float scale[ggml_most_groups], minimum[ggml_most_groups], step[ggml_most_groups], base[ggml_most_groups];
  float weight[ggml_most_groups];  ///< the sum of the weights of a group, where scales are weighted
} ggml_groups;

/// Scale and minimum of groups with codes from 0 to `top`: of some steps the one whose codes, under the scale and the minimum that fit them
/// best, leave the least error, weighted; ggml's make_qkx2_quants, and make_qkx3_quants where `given` has the weights. With `absolute` errors
/// count as they are, else squared.
LANES_INLINE void ggml_fit_ranges(const float *numbers, const float *given, int n, int32_t top, int absolute, float first, float by,
                                  int steps, size_t groups, ggml_groups *out, size_t at) {
  lanes x[ggml_longest_group], weights[ggml_longest_group], codes[ggml_longest_group];
  ggml_load_groups(numbers, n, groups, x);
  if (given) {
    ggml_load_groups(given, n, groups, weights);
  } else if (absolute) {
    for (int i = 0; i < n; i++) weights[i] = ggml_magnitude(x[i]);
  } else {
    lanes squares = {};
    for (int i = 0; i < n; i++) squares += x[i] * x[i];
    const lanes size = __builtin_elementwise_sqrt(squares / (float)n);
    for (int i = 0; i < n; i++) weights[i] = size + ggml_magnitude(x[i]);
  }
  lanes low = x[0], high = x[0], sum_w = weights[0], sum_x = sum_w * x[0];
  for (int i = 1; i < n; i++) {
    low = lanes_pick(x[i] < low, x[i], low);
    high = lanes_pick(x[i] > high, x[i], high);
    sum_w += weights[i];
    sum_x += weights[i] * x[i];
  }
  const lanes zero = {};
  low = lanes_pick(low > 0, zero, low);
  const lanes_i flat = given ? high <= low : low == high;
  const lanes flat_low = low;
  lanes step = (float)top / (high - low), scale = 1.0f / step, least = zero;
  for (int i = 0; i < n; i++) {
    lanes code = ggml_codes_lanes(step * (x[i] - low), 0, top);
    lanes error = scale * code + low - x[i];
    least += weights[i] * (absolute ? ggml_magnitude(error) : error * error);
  }
  lanes best_step = step, best_base = low;
  for (int k = 0; k <= steps; k++) {
    step = (first + by * (float)k + (float)top) / (high - low);
    lanes l = zero, ll = zero, xl = zero;
    for (int i = 0; i < n; i++) {
      codes[i] = ggml_codes_lanes(step * (x[i] - low), 0, top);
      lanes wl = weights[i] * codes[i];
      l += wl;
      ll += wl * codes[i];
      xl += wl * x[i];
    }
    const lanes determinant = sum_w * ll - l * l;
    lanes fit = (sum_w * xl - sum_x * l) / determinant, base = (ll * sum_x - l * xl) / determinant;
    const lanes_i above = base > 0;
    fit = lanes_pick(above, xl / ll, fit);
    base = lanes_pick(above, zero, base);
    lanes sum = zero;
    for (int i = 0; i < n; i++) {
      lanes error = fit * codes[i] + base - x[i];
      sum += weights[i] * (absolute ? ggml_magnitude(error) : error * error);
    }
    const lanes_i better = (determinant > 0) & (sum < least);
    least = lanes_pick(better, sum, least);
    best_step = lanes_pick(better, step, best_step);
    best_base = lanes_pick(better, low, best_base);
    scale = lanes_pick(better, fit, scale);
    low = lanes_pick(better, base, low);
  }
  ggml_store_groups(lanes_pick(flat, zero, scale), groups, out->scale + at);
  ggml_store_groups(-lanes_pick(flat, flat_low, low), groups, out->minimum + at);
  ggml_store_groups(lanes_pick(flat, zero, best_step), groups, out->step + at);
  ggml_store_groups(lanes_pick(flat, zero, best_base), groups, out->base + at);
  if (given) ggml_store_groups(sum_w, groups, out->weight + at);
}

/// The first number of each group that has the greatest magnitude, with its sign.
LANES_INLINE lanes ggml_extremes(const lanes *x, int n, lanes *magnitude) {
  lanes most = {}, extreme = {};
  for (int i = 0; i < n; i++) {
    lanes size = ggml_magnitude(x[i]);
    lanes_i more = size > most;
    most = lanes_pick(more, size, most);
    extreme = lanes_pick(more, x[i], extreme);
  }
  *magnitude = most;
  return extreme;
}

/// The scale of groups with codes from -half to half - 1: of 19 steps the one whose codes fit best, weighted by squares, or as `given` says;
/// ggml's make_qx_quants.
LANES_INLINE void ggml_fit_scales(const float *numbers, const float *given, int n, int32_t half, size_t groups, ggml_groups *out, size_t at) {
  lanes x[ggml_longest_group], weights[ggml_longest_group], weighted[ggml_longest_group], most;
  ggml_load_groups(numbers, n, groups, x);
  if (given) ggml_load_groups(given, n, groups, weights);
  for (int i = 0; i < n; i++) {
    if (!given) weights[i] = x[i] * x[i];
    weighted[i] = weights[i] * x[i];
  }
  const lanes extreme = ggml_extremes(x, n, &most), zero = {};
  const lanes_i tiny = most < NIBBLE_GGML_ZERO;
  lanes step = (float)-half / extreme, best_step = step, scale = zero, best = zero;
  for (int k = -10; k <= 9; k++) {
    if (k == 0) continue;
    // The first is the plain one.
    if (k > -10) step = -((float)half + 0.1f * (float)k) / extreme;
    lanes xl = zero, ll = zero;
    for (int i = 0; i < n; i++) {
      lanes code = ggml_codes_lanes(step * x[i], -half, half - 1);
      xl += weighted[i] * code;
      ll += weights[i] * code * code;
    }
    const lanes fit = xl / ll;
    if (k == -10) {
      scale = lanes_pick(ll == 0, zero, fit);
      best = scale * xl;
    } else {
      const lanes_i better = (ll > 0) & (xl * xl > best * ll);
      scale = lanes_pick(better, fit, scale);
      best = lanes_pick(better, fit * xl, best);
      best_step = lanes_pick(better, step, best_step);
    }
  }
  ggml_store_groups(lanes_pick(tiny, zero, scale), groups, out->scale + at);
  ggml_store_groups(best_step, groups, out->step + at);
  ggml_store_groups((lanes)tiny, groups, out->base + at);
  if (!given) return;
  lanes sum = zero;
  for (int i = 0; i < n; i++) sum += weights[i];
  ggml_store_groups(sum, groups, out->weight + at);
}

/// The same for q3_k, whose codes from -4 to 3 are moved one by one while that fits better; ggml's make_q3_quants. `codes` gets them less
/// their lowest, of groups of 16.
LANES_INLINE void ggml_fit_codes(const float *numbers, size_t groups, ggml_groups *out, size_t at, int8_t *stored) {
  enum { n = 16 };
  lanes x[n], squares[n], cubes[n], codes[n], most;
  ggml_load_groups(numbers, n, groups, x);
  const lanes extreme = ggml_extremes(x, n, &most), zero = {}, step = -4.0f / extreme;
  const lanes_i tiny = most < NIBBLE_GGML_ZERO;
  lanes xl = zero, ll = zero;
  for (int i = 0; i < n; i++) {
    squares[i] = x[i] * x[i];
    cubes[i] = squares[i] * x[i];
    codes[i] = ggml_codes_lanes(step * x[i], -4, 3);
    xl += cubes[i] * codes[i];
    ll += squares[i] * codes[i] * codes[i];
  }
  for (int pass = 0; pass < 5; pass++) {
    lanes_i changed = {};
    for (int i = 0; i < n; i++) {
      lanes rest_xl = xl - cubes[i] * codes[i], rest_ll = ll - squares[i] * codes[i] * codes[i];
      lanes code = ggml_codes_lanes(x[i] * rest_ll / rest_xl, -4, 3);
      lanes_i moves = (rest_xl > 0) & (code != codes[i]);
      rest_xl += cubes[i] * code;
      rest_ll += squares[i] * code * code;
      moves &= (rest_ll > 0) & (rest_xl * rest_xl * ll > xl * xl * rest_ll);
      codes[i] = lanes_pick(moves, code, codes[i]);
      xl = lanes_pick(moves, rest_xl, xl);
      ll = lanes_pick(moves, rest_ll, ll);
      changed |= moves;
    }
    if (!lanes_any(changed)) break;
  }
  ggml_store_groups(lanes_pick(tiny | ~(ll > 0), zero, xl / ll), groups, out->scale + at);
  for (int i = 0; i < n; i++) {
    float all[NIBBLE_LANES];
    lanes_store(all, lanes_pick(tiny, zero, codes[i] + 4.0f));
    for (size_t lane = 0; lane < groups && lane < NIBBLE_LANES; lane++) stored[n * lane + (size_t)i] = (int8_t)all[lane];
  }
}

// MARK: Blocks of 256

enum { ggml_together = 2 };  ///< blocks of 256 whose groups are searched together

/// Numbers of a group into codes under a stored scale and minimum.
LANES_INLINE void ggml_codes(const float *x, int n, float scale, float minimum, int32_t low, int32_t high, uint8_t *codes) {
  for (int i = 0; i < n; i++) codes[i] = (uint8_t)(ggml_within(ggml_nearest((x[i] + minimum) / scale), low, high) - low);
}

/// The codes that a group had when its scale was found, for groups whose stored scale is 0.
LANES_INLINE void ggml_found_codes(const float *x, int n, const ggml_groups *found, int group, int32_t top, uint8_t *codes) {
  for (int i = 0; i < n; i++)
    codes[i] = (uint8_t)ggml_within(ggml_nearest(found->step[group] * (x[i] - found->base[group])), 0, top);
}

LANES_INLINE float ggml_greatest(const float *x, int n) {
  float most = 0;
  for (int i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
  return most;
}

/// Scales and minima of eight groups, 6 bits each. ggml has no care for what is larger; neither is there any here.
LANES_INLINE void ggml_store_six_bits(const uint8_t *scales, const uint8_t *minima, uint8_t *packed) {
  for (int group = 0; group < 8; group++) {
    const uint8_t s = scales[group], m = minima[group];
    if (group < 4) {
      packed[group] = s;
      packed[group + 4] = m;
    } else {
      packed[group + 4] = (uint8_t)((s & 15) | (m & 15) << 4);
      packed[group - 4] |= (uint8_t)(s >> 4 << 6);
      packed[group] |= (uint8_t)(m >> 4 << 6);
    }
  }
}

/// Sixteen bytes of scales and minima for eight groups: what q4_k and q5_k begin with.
LANES_INLINE void ggml_pack_six_bits(const float *scales, const float *minima, uint8_t *b) {
  const float most = ggml_greatest(scales, 8), most_minimum = ggml_greatest(minima, 8);
  const float inverse = most > 0 ? 63.0f / most : 0, inverse_minimum = most_minimum > 0 ? 63.0f / most_minimum : 0;
  nibble_store16(b, 0, nibble_to_f16(most / 63.0f));
  nibble_store16(b, 1, nibble_to_f16(most_minimum / 63.0f));
  uint8_t s[8], m[8];
  for (int group = 0; group < 8; group++) {
    s[group] = (uint8_t)ggml_nearest(inverse * scales[group]);
    m[group] = (uint8_t)ggml_nearest(inverse_minimum * minima[group]);
    s[group] = s[group] < 63 ? s[group] : 63;
    m[group] = m[group] < 63 ? m[group] : 63;
  }
  ggml_store_six_bits(s, m, b + 4);
}

/// The codes of q4_k, and of q5_k with `top` 31, under the scales that are stored.
LANES_INLINE void ggml_finish_ranges(const float *x, const ggml_groups *found, int first, int32_t top, uint8_t *b) {
  uint8_t codes[256];
  const float d = nibble_from_f16(nibble_load16(b, 0)), m = nibble_from_f16(nibble_load16(b, 1));
  for (int group = 0; group < 8; group++) {
    uint8_t s, o;
    nibble_six_bits(b + 4, group, &s, &o);
    const float scale = d * (float)s;
    if (scale != 0) ggml_codes(x + 32 * group, 32, scale, m * (float)o, 0, top, codes + 32 * group);
    else ggml_found_codes(x + 32 * group, 32, found, first + group, top, codes + 32 * group);
  }
  uint8_t *q = b + (top > 15 ? 48 : 16);
  if (top > 15) memset(b + 16, 0, 32);
  for (int pair = 0; pair < 4; pair++)
    for (int i = 0; i < 32; i++) {
      uint8_t low = codes[64 * pair + i], high = codes[64 * pair + 32 + i];
      q[32 * pair + i] = (uint8_t)((low & 15) | high << 4);
      if (top > 15) b[16 + i] |= (uint8_t)(low >> 4 << 2 * pair | high >> 4 << (2 * pair + 1));
    }
}

/// The low two bits of 256 codes.
LANES_INLINE void ggml_store_pairs(const uint8_t *codes, uint8_t *out) {
  for (int half = 0; half < 2; half++)
    for (int i = 0; i < 32; i++) {
      const uint8_t *c = codes + 128 * half + i;
      out[32 * half + i] = (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
    }
}

/// Sixteen bytes of scales and minima, and what they are multiplied by.
LANES_INLINE void ggml_pack_four_bits(const float *scales, const float *minima, uint8_t *b) {
  const float most = ggml_greatest(scales, 16), most_minimum = ggml_greatest(minima, 16);
  const float inverse = 15.0f / most, inverse_minimum = 15.0f / most_minimum;
  for (int group = 0; group < 16; group++) {
    int32_t s = most > 0 ? ggml_nearest(inverse * scales[group]) : 0;
    int32_t m = most_minimum > 0 ? ggml_nearest(inverse_minimum * minima[group]) : 0;
    b[group] = (uint8_t)((uint8_t)s | (uint32_t)m << 4);
  }
  nibble_store16(b + 80, 0, nibble_to_f16(most > 0 ? most / 15.0f : 0));
  nibble_store16(b + 80, 1, nibble_to_f16(most_minimum > 0 ? most_minimum / 15.0f : 0));
}

/// The codes of q2_k under the scales that are stored.
LANES_INLINE void ggml_finish_q2_k(const float *x, const ggml_groups *found, int first, uint8_t *b) {
  uint8_t codes[256];
  const float d = nibble_from_f16(nibble_load16(b + 80, 0)), m = nibble_from_f16(nibble_load16(b + 80, 1));
  for (int group = 0; group < 16; group++) {
    const float scale = d * (float)(b[group] & 15);
    if (scale != 0) ggml_codes(x + 16 * group, 16, scale, m * (float)(b[group] >> 4), 0, 3, codes + 16 * group);
    else ggml_found_codes(x + 16 * group, 16, found, first + group, 3, codes + 16 * group);
  }
  ggml_store_pairs(codes, b + 16);
}

/// The number of greatest magnitude, the first one.
LANES_INLINE float ggml_extreme(const float *x, int n) {
  float most = 0, extreme = 0;
  for (int i = 0; i < n; i++) {
    float size = __builtin_fabsf(x[i]);
    if (size > most) most = size, extreme = x[i];
  }
  return extreme;
}

/// Scales of 16 groups, 6 bits each.
LANES_INLINE void ggml_store_q3_scale(int group, int32_t s, uint8_t *packed) {
  packed[group % 8] |= (uint8_t)((s & 15) << 4 * (group / 8));
  packed[8 + group % 4] |= (uint8_t)(s >> 4 << 2 * (group / 4));
}

LANES_INLINE void ggml_pack_q3_scales(const float *scales, uint8_t *b) {
  const float extreme = ggml_extreme(scales, 16);
  memset(b, 0, 110);
  if (extreme == 0) return;
  const float inverse = -32.0f / extreme;
  for (int group = 0; group < 16; group++)
    ggml_store_q3_scale(group, ggml_within((int8_t)ggml_nearest(inverse * scales[group]), -32, 31) + 32, b + 96);
  nibble_store16(b + 108, 0, nibble_to_f16(1.0f / inverse));
}

/// The codes of q3_k under the scales that are stored; `codes` has those of groups whose scale is 0.
LANES_INLINE void ggml_finish_q3_k(const float *x, uint8_t *codes, uint8_t *b) {
  const float d = nibble_from_f16(nibble_load16(b + 108, 0));
  for (int group = 0; group < 16; group++) {
    const float scale = d * (float)nibble_q3_scale(b + 96, group);
    if (scale != 0) ggml_codes(x + 16 * group, 16, scale, 0, -4, 3, codes + 16 * group);
  }
  for (int i = 0; i < 256; i++) b[i % 32] |= (uint8_t)((codes[i] > 3) << i / 32);
  ggml_store_pairs(codes, b + 32);
}

/// The codes that a group had when its scale was found, from -half to half - 1, less the lowest. A group of nothing but zeros has codes of
/// 0, which is -half.
LANES_INLINE void ggml_scaled_codes(const float *x, int n, const ggml_groups *found, int group, int32_t half, uint8_t *codes) {
  const int32_t tiny = nibble_bits(found->base[group]) != 0;
  for (int i = 0; i < n; i++)
    codes[i] = (uint8_t)(tiny ? 0 : ggml_within(ggml_nearest(found->step[group] * x[i]), -half, half - 1) + half);
}

LANES_INLINE void ggml_finish_q6_k(const float *x, const ggml_groups *found, int first, uint8_t *b) {
  const float extreme = ggml_extreme(found->scale + first, 16);
  if (__builtin_fabsf(extreme) < NIBBLE_GGML_ZERO) {
    memset(b, 0, 210);
    return;
  }
  const float inverse = -128.0f / extreme;
  nibble_store16(b + 208, 0, nibble_to_f16(1.0f / inverse));
  const float d = nibble_from_f16(nibble_load16(b + 208, 0));
  uint8_t codes[256];
  for (int group = 0; group < 16; group++) {
    int32_t s = nibble_at_most(ggml_nearest(inverse * found->scale[first + group]), 127);
    b[192 + group] = (uint8_t)s;
    const float scale = d * (float)(int8_t)s, *from = x + 16 * group;
    uint8_t *to = codes + 16 * group;
    if (scale != 0) {
      ggml_codes(from, 16, scale, 0, -32, 31, to);
    } else {
      ggml_scaled_codes(from, 16, found, first + group, 32, to);
    }
  }
  for (int half = 0; half < 2; half++)
    for (int i = 0; i < 32; i++) {
      const uint8_t *c = codes + 128 * half + i;
      b[64 * half + i] = (uint8_t)((c[0] & 15) | c[64] << 4);
      b[64 * half + 32 + i] = (uint8_t)((c[32] & 15) | c[96] << 4);
      b[128 + 32 * half + i] = (uint8_t)(c[0] >> 4 | c[32] >> 4 << 2 | c[64] >> 4 << 4 | c[96] >> 4 << 6);
    }
}

// MARK: Levels of iq4

/// Half way between the levels, and from one to the next.
static const float ggml_iq4_middles[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};
static const float ggml_iq4_gaps[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};

#if !defined(LANES_OWN_LEVELS)
/// The nearest level, the upper of two as near; NaN takes the greatest.
LANES_INLINE lanes ggml_level_lanes(lanes v) {
  lanes level = lanes_all(-127);
  for (int k = 0; k < 15; k++) level += (lanes)(~(v < ggml_iq4_middles[k]) & (lanes_i)lanes_all(ggml_iq4_gaps[k]));
  return level;
}
#endif

/// Codes of 32 numbers times `inverse`.
LANES_INLINE void ggml_iq4_codes(const float *x, float inverse, uint8_t *out) {
  uint8_t codes[32];
  for (int i = 0; i < 32; i++) {
    float v = inverse * x[i];
    int32_t code = 0;
    for (int k = 0; k < 15; k++) code += !(v < ggml_iq4_middles[k]);
    codes[i] = (uint8_t)code;
  }
  nibble_store_halves(codes, out);
}

/// The scale of groups of 32: of 16 the one whose levels fit best, weighted by squares, or as `given` says.
LANES_INLINE void ggml_fit_levels(const float *numbers, const float *given, size_t groups, float *scales) {
  enum { n = 32, tries = 7 };
  lanes x[n], weights[n], most;
  ggml_load_groups(numbers, n, groups, x);
  if (given) ggml_load_groups(given, n, groups, weights);
  else
    for (int i = 0; i < n; i++) weights[i] = x[i] * x[i];
  const lanes extreme = ggml_extremes(x, n, &most), zero = {};
  lanes scale = zero, best = zero;
  for (int k = -tries - 1; k <= tries; k++) {
    const int plain = k < -tries;
    const lanes inverse = plain ? 1.0f / (-extreme / -127.0f) : (float)(k - 127) / extreme;
    lanes xq = zero, qq = zero;
    for (int i = 0; i < n; i++) {
      lanes q = ggml_level_lanes(inverse * x[i]), wq = weights[i] * q;
      xq += wq * x[i];
      qq += wq * q;
    }
    const lanes fit = xq / qq;
    const lanes_i better = plain ? qq > 0 : (qq > 0) & (xq * xq > best * qq);
    scale = lanes_pick(better, fit, scale);
    best = lanes_pick(better, fit * xq, plain ? zero * xq : best);
  }
  ggml_store_groups(lanes_pick(most < NIBBLE_GGML_ZERO, zero, scale), groups, scales);
}

LANES_INLINE void ggml_finish_iq4_xs(const float *x, const float *scales, uint8_t *b) {
  const float d = -ggml_extreme(scales, 8) / 32.0f, inverse = nibble_reciprocal(d);
  memset(b, 0, 8);
  nibble_store16(b, 0, nibble_to_f16(d));
  uint32_t high = 0;
  for (int group = 0; group < 8; group++) {
    int32_t s = ggml_within(ggml_nearest(inverse * scales[group]), -32, 31);
    ggml_iq4_codes(x + 32 * group, nibble_reciprocal(d * (float)s), b + 8 + 16 * group);
    b[4 + group / 2] |= (uint8_t)(((s + 32) & 15) << 4 * (group % 2));
    high |= (uint32_t)((s + 32) >> 4) << 2 * group;
  }
  nibble_store16(b, 1, (uint16_t)high);
}

// MARK: Rows

LANES_STATIC void ggml_encode_ranges(const float *x, size_t count, int32_t top, uint8_t *out) {
  const size_t bytes = top > 15 ? 176 : 144;
  for (size_t b = 0; b < count; b += ggml_together) {
    size_t blocks = count - b < ggml_together ? count - b : ggml_together, groups = 8 * blocks;
    ggml_groups found;
    for (size_t g = 0; g < groups; g += NIBBLE_LANES)
      ggml_fit_ranges(x + 256 * b + 32 * g, NULL, 32, top, 0, top > 15 ? -0.5f : -1.0f, 0.1f, top > 15 ? 15 : 20, groups - g, &found, g);
    for (size_t k = 0; k < blocks; k++) {
      ggml_pack_six_bits(found.scale + 8 * k, found.minimum + 8 * k, out + bytes * (b + k));
      ggml_finish_ranges(x + 256 * (b + k), &found, (int)(8 * k), top, out + bytes * (b + k));
    }
  }
}

LANES_STATIC void ggml_encode_q2_k(const float *x, size_t count, uint8_t *out) {
  for (size_t b = 0; b < count; b++) {
    ggml_groups found;
    for (size_t g = 0; g < 16; g += NIBBLE_LANES) ggml_fit_ranges(x + 256 * b + 16 * g, NULL, 16, 3, 1, -0.5f, 0.1f, 15, 16 - g, &found, g);
    ggml_pack_four_bits(found.scale, found.minimum, out + 84 * b);
    ggml_finish_q2_k(x + 256 * b, &found, 0, out + 84 * b);
  }
}

LANES_STATIC void ggml_encode_q3_k(const float *x, size_t count, uint8_t *out) {
  for (size_t b = 0; b < count; b++) {
    ggml_groups found;
    int8_t codes[256];
    for (size_t g = 0; g < 16; g += NIBBLE_LANES) ggml_fit_codes(x + 256 * b + 16 * g, 16 - g, &found, g, codes + 16 * g);
    ggml_pack_q3_scales(found.scale, out + 110 * b);
    ggml_finish_q3_k(x + 256 * b, (uint8_t *)codes, out + 110 * b);
  }
}

LANES_STATIC void ggml_encode_q6_k(const float *x, size_t count, uint8_t *out) {
  for (size_t b = 0; b < count; b++) {
    ggml_groups found;
    for (size_t g = 0; g < 16; g += NIBBLE_LANES) ggml_fit_scales(x + 256 * b + 16 * g, NULL, 16, 32, 16 - g, &found, g);
    ggml_finish_q6_k(x + 256 * b, &found, 0, out + 210 * b);
  }
}

LANES_STATIC void ggml_encode_iq4_nl(const float *x, size_t count, uint8_t *out) {
  for (size_t b = 0; b < count; b += NIBBLE_LANES) {
    float scales[NIBBLE_LANES];
    ggml_fit_levels(x + 32 * b, NULL, count - b, scales);
    for (size_t k = 0; k < NIBBLE_LANES && b + k < count; k++) {
      nibble_store16(out + 18 * (b + k), 0, nibble_to_f16(scales[k]));
      ggml_iq4_codes(x + 32 * (b + k), nibble_reciprocal(scales[k]), out + 18 * (b + k) + 2);
    }
  }
}

LANES_STATIC void ggml_encode_iq4_xs(const float *x, size_t count, uint8_t *out) {
  for (size_t b = 0; b < count; b += ggml_together) {
    size_t blocks = count - b < ggml_together ? count - b : ggml_together, groups = 8 * blocks;
    float scales[8 * ggml_together + NIBBLE_LANES];
    for (size_t g = 0; g < groups; g += NIBBLE_LANES) ggml_fit_levels(x + 256 * b + 32 * g, NULL, groups - g, scales + g);
    for (size_t k = 0; k < blocks; k++) ggml_finish_iq4_xs(x + 256 * (b + k), scales + 8 * k, out + 136 * (b + k));
  }
}

LANES_STATIC void ggml_encode_blocks(nibble_ggml type, const float *x, size_t count, uint8_t *out, nibble_ggml_counts *counts) {
#define NIBBLE_EACH(bytes, encode) \
  for (size_t i = 0; i < count; i++) encode(x + 32 * i, out + (bytes) * i); \
  break
  switch (type) {
    case nibble_q4_0: NIBBLE_EACH(18, nibble_encode_q4_0);
    case nibble_q4_1: NIBBLE_EACH(20, nibble_encode_q4_1);
    case nibble_q5_0: NIBBLE_EACH(22, nibble_encode_q5_0);
    case nibble_q5_1: NIBBLE_EACH(24, nibble_encode_q5_1);
    case nibble_q8_0: NIBBLE_EACH(34, nibble_encode_q8_0);
    case nibble_mxfp4: NIBBLE_EACH(17, nibble_encode_mxfp4);
    case nibble_q2_k: ggml_encode_q2_k(x, count, out); break;
    case nibble_q3_k: ggml_encode_q3_k(x, count, out); break;
    case nibble_q4_k: ggml_encode_ranges(x, count, 15, out); break;
    case nibble_q5_k: ggml_encode_ranges(x, count, 31, out); break;
    case nibble_q6_k: ggml_encode_q6_k(x, count, out); break;
    case nibble_iq4_nl: ggml_encode_iq4_nl(x, count, out); break;
    case nibble_iq4_xs: ggml_encode_iq4_xs(x, count, out); break;
  }
#undef NIBBLE_EACH
  const nibble_ggml_layout layout = nibble_ggml_layout_of(type);
  for (size_t i = 0; i < count; i++) nibble_note(layout, x + i * layout.numbers, out + i * layout.bytes, counts);
}

LANES_STATIC void ggml_decode_blocks(nibble_ggml type, const uint8_t *blocks, size_t count, float *out) {
  nibble_ggml_decode_loop(type, blocks, count, out);
}
