// The optimizers, written once over sixteen numbers at a time; every variant compiles them for its own registers. All variants have the
// same lanes, so that sums are the same too.
//
// A file that includes this defines before: WIDE_TARGET, the attribute that chooses the instructions, and WIDE_OWN_LOOKUP if it has its own
// wide_lookup.

#ifndef NIBBLE_OPTIMIZERS_LOOPS_H
#define NIBBLE_OPTIMIZERS_LOOPS_H

#include "optimizers.h"

#pragma STDC FP_CONTRACT OFF
// Vectors wider than the registers never cross a call that is not inlined.
#pragma clang diagnostic ignored "-Wpsabi"

#define WIDE 16
#define WIDE_INLINE static inline __attribute__((always_inline)) WIDE_TARGET
#define WIDE_STATIC static WIDE_TARGET

typedef float wide __attribute__((vector_size(64)));
typedef int32_t wide_i __attribute__((vector_size(64)));
typedef double wide_d __attribute__((vector_size(128)));

/// Runs statements for each sixteen numbers from `i` on, and for what is left: `part` is how many they are.
#define WIDE_EACH(n, ...)                       \
  do {                                          \
    size_t i = 0, end = (n);                    \
    for (; i + WIDE <= end; i += WIDE) {        \
      enum { part = WIDE };                     \
      __VA_ARGS__                               \
    }                                           \
    if (i < end) {                              \
      const size_t part = end - i;              \
      __VA_ARGS__                               \
    }                                           \
  } while (0)

/// The first n lanes from memory, the others 0.
WIDE_INLINE wide wide_load(const float *p, size_t n) {
  wide v = {};
  if (n == WIDE)
    memcpy(&v, p, sizeof v);
  else
    memcpy(&v, p, 4 * n);
  return v;
}

WIDE_INLINE void wide_store(float *p, wide v, size_t n) {
  if (n == WIDE)
    memcpy(p, &v, sizeof v);
  else
    memcpy(p, &v, 4 * n);
}

WIDE_INLINE wide wide_all(float x) { return (wide){} + x; }
WIDE_INLINE wide wide_pick(wide_i which, wide a, wide b) { return (wide)((which & (wide_i)a) | (~which & (wide_i)b)); }
WIDE_INLINE wide wide_root(wide x) { return __builtin_elementwise_sqrt(x); }

/// x + weight (z - x), and exactly z where the weight is 1.
WIDE_INLINE wide wide_towards(wide x, wide z, float weight) {
  return weight < 0.5f ? x + weight * (z - x) : z - (z - x) * (1.0f - weight);
}

WIDE_INLINE double wide_sum(const wide_d *sums) {
  double sum = 0;
  for (int i = 0; i < WIDE; i++) sum += (*sums)[i];
  return sum;
}

WIDE_STATIC void adam(const nibble_adam *given, float *p, const float *g, float *m, float *v, size_t n) {
  const nibble_adam step = *given;
  WIDE_EACH(n, {
    wide x = wide_load(p + i, part) * step.keep, d = wide_load(g + i, part);
    if (step.coupled != 0) d += step.coupled * x;
    wide first = wide_load(m + i, part), second = wide_load(v + i, part);
    first += step.first_share * (d - first);
    second = step.beta2 * second + step.second_share * d * d;
    wide_store(m + i, first, part);
    wide_store(v + i, second, part);
    wide root = wide_root(second);
    if (step.root != 1) root /= step.root;
    wide_store(p + i, x - step.size * first / (root + step.epsilon), part);
  });
}

WIDE_STATIC void descent(const nibble_descent *given, float *p, const float *g, float *m, size_t n) {
  const nibble_descent step = *given;
  WIDE_EACH(n, {
    wide x = wide_load(p + i, part), d = wide_load(g + i, part) + step.decay * x;
    if (m) {
      if (!step.first) d += step.momentum * wide_load(m + i, part);
      wide_store(m + i, d, part);
    }
    wide_store(p + i, x - step.rate * d, part);
  });
}

WIDE_STATIC void lion(const nibble_lion *given, float *p, const float *g, float *m, size_t n) {
  const nibble_lion step = *given;
  WIDE_EACH(n, {
    wide x = wide_load(p + i, part) * step.keep, d = wide_load(g + i, part), first = wide_load(m + i, part);
    wide c = step.beta1 * first + step.share1 * d;
    wide_i up = c > 0.0f, down = c < 0.0f;
    x -= wide_pick(up, wide_all(step.rate), wide_pick(down, wide_all(-step.rate), wide_all(0)));
    wide_store(m + i, step.beta2 * first + step.share2 * d, part);
    wide_store(p + i, x, part);
  });
}

WIDE_STATIC void schedule_free(const nibble_schedule_free *given, float *y, const float *g, float *z, float *v, size_t n) {
  const nibble_schedule_free step = *given;
  WIDE_EACH(n, {
    wide x = wide_load(y + i, part), d = wide_load(g + i, part), end = wide_load(z + i, part), second = wide_load(v + i, part);
    second = step.beta2 * second + step.second_share * d * d;
    d = d / (wide_root(second / step.correction) + step.epsilon);
    if (step.decay != 0) d += step.decay * x;
    wide_store(y + i, wide_towards(x, end, step.weight) + step.slope * d, part);
    wide_store(z + i, end - step.rate * d, part);
    wide_store(v + i, second, part);
  });
}

WIDE_STATIC void move_towards(float weight, float *x, const float *z, size_t n) {
  WIDE_EACH(n, {
    wide_store(x + i, wide_towards(wide_load(x + i, part), wide_load(z + i, part), weight), part);
  });
}

WIDE_STATIC double square_sum(const float *g, size_t n, float epsilon) {
  wide_d sums = {};
  size_t i = 0;
  for (; i + WIDE <= n; i += WIDE) {
    wide x = wide_load(g + i, WIDE);
    sums += __builtin_convertvector(x * x + epsilon, wide_d);
  }
  double rest = 0;
  for (; i < n; i++) {
    float square = g[i] * g[i] + epsilon;
    rest += square;
  }
  return wide_sum(&sums) + rest;
}

WIDE_STATIC void add_squares(const float *g, size_t n, float epsilon, double *sums) {
  for (size_t i = 0; i < n; i++) {
    float square = g[i] * g[i] + epsilon;
    sums[i] += square;
  }
}

WIDE_STATIC void mean_squares(const float *g, size_t n, float epsilon, float keep, float share, float *v) {
  WIDE_EACH(n, {
    wide x = wide_load(g + i, part);
    wide_store(v + i, keep * wide_load(v + i, part) + share * (x * x + epsilon), part);
  });
}

WIDE_STATIC double update_sum(const float *g, const float *factors, float row, size_t n) {
  wide_d sums = {};
  WIDE_EACH(n, {
    wide u = row * wide_load(factors + i, part) * wide_load(g + i, part);
    sums += __builtin_convertvector(u * u, wide_d);
  });
  return wide_sum(&sums);
}

WIDE_STATIC void update_step(float *p, const float *g, const float *factors, float row, size_t n, float decay, float size) {
  WIDE_EACH(n, {
    wide x = wide_load(p + i, part);
    if (decay != 0) x += decay * x;
    wide_store(p + i, x - size * (row * wide_load(factors + i, part) * wide_load(g + i, part)), part);
  });
}

WIDE_STATIC void inverse_roots(const float *x, size_t n, float scale, float *out) {
  WIDE_EACH(n, {
    wide_store(out + i, 1.0f / wide_root(wide_load(x + i, part) * scale), part);
  });
}

/// The greatest magnitude, by its bits: NaN above infinity above the rest.
WIDE_STATIC float greatest(const float *x, size_t n) {
  wide_i most = {};
  WIDE_EACH(n, { most = __builtin_elementwise_max(most, (wide_i)wide_load(x + i, part) & 0x7fffffff); });
  int32_t greatest = 0;
  for (int i = 0; i < WIDE; i++) greatest = most[i] > greatest ? most[i] : greatest;
  return nibble_float((uint32_t)greatest);
}

typedef uint8_t wide_b __attribute__((vector_size(16)));

#if !defined(WIDE_OWN_LOOKUP)
/// Entries of a table of eight, by the last three bits.
WIDE_INLINE wide wide_lookup(const float table[8], wide_i index) {
  wide v;
  for (int i = 0; i < WIDE; i++) v[i] = table[index[i] & 7];
  return v;
}
#endif

/// A whole block.
WIDE_INLINE void decode_whole(const nibble_state_map *given, const uint8_t *codes, float absmax, float *out) {
  const nibble_state_map map = *given;
  const int32_t start = map.is_signed ? -127 : 0, count = map.is_signed ? 0 : 1;
  for (size_t i = 0; i < nibble_state_block; i += WIDE) {
    wide_b bytes;
    memcpy(&bytes, codes + i, sizeof bytes);
    wide_i code = __builtin_convertvector(bytes, wide_i) + start, sign = code >> 31;
    wide_i number = (code ^ sign) - sign;
    wide j = __builtin_convertvector(number + count, wide);
    wide_i exponent = (wide_i)j >> 23;
    wide value = (j + wide_lookup(map.shift, exponent)) * wide_lookup(map.unit, exponent) * absmax;
    wide_i bits = ((wide_i)value & (number != 0)) ^ (sign << 31);
    wide_store(out + i, (wide)bits, WIDE);
  }
}

WIDE_STATIC void decode_block(const nibble_state_map *map, const uint8_t *codes, size_t n, float absmax, float *out) {
  if (n == nibble_state_block) {
    decode_whole(map, codes, absmax, out);
    return;
  }
  uint8_t own[nibble_state_block] = {};
  float values[nibble_state_block];
  memcpy(own, codes, n);
  decode_whole(map, own, absmax, values);
  memcpy(out, values, 4 * n);
}

/// The greater and the smaller of two that are not negative, by their bits, which is one instruction.
WIDE_INLINE wide wide_greater(wide a, wide b) { return (wide)__builtin_elementwise_max((wide_i)a, (wide_i)b); }
WIDE_INLINE wide wide_smaller(wide a, wide b) { return (wide)__builtin_elementwise_min((wide_i)a, (wide_i)b); }

/// A whole block. The decade is first guessed from the bits, which are nearly a logarithm, at most one too low.
WIDE_INLINE void encode_whole(const nibble_state_map *given, const float *x, float absmax, uint8_t *codes) {
  const nibble_state_map map = *given;
  const float inverse = 1.0f / absmax;
  // log10(2) / 2^23, and what makes 6.3 of the logarithm of 1.
  const float share = 0x1.344136p-25f, start = 6.3f - 127 * 0x1.344136p-2f;
  for (size_t i = 0; i < nibble_state_block; i += WIDE) {
    wide number = wide_load(x + i, WIDE), y = (wide)((wide_i)number & 0x7fffffff) * inverse, z = wide_greater(y, wide_all(map.floor));
    wide_i decade = __builtin_convertvector(__builtin_convertvector((wide_i)z, wide) * share + start, wide_i);
    decade -= z > wide_lookup(map.next, decade);
    wide t = z * wide_lookup(map.slope, decade) + wide_lookup(map.rise, decade);
    wide_i j = __builtin_convertvector(wide_smaller(t, wide_lookup(map.last, decade)), wide_i), code;
    if (map.is_signed) {
      wide_i sign = (wide_i)number >> 31;
      // There is a 1, but no -1.
      code = __builtin_elementwise_max((((j & (y > map.least)) ^ sign) - sign) + 127, (wide_i){});
    } else {
      code = j & (number > 0.0f);
    }
    wide_b bytes = __builtin_convertvector(code, wide_b);
    memcpy(codes + i, &bytes, sizeof bytes);
  }
}

WIDE_STATIC void encode_block(const nibble_state_map *map, const float *x, size_t n, float absmax, uint8_t *codes) {
  if (n == nibble_state_block && absmax >= 0x1p-100f) {
    encode_whole(map, x, absmax, codes);
    return;
  }
  // Short blocks are filled up; scales whose inverse is too large are scaled themselves.
  const float factor = absmax < 0x1p-100f ? 0x1p64f : 1.0f;
  float values[nibble_state_block] = {};
  uint8_t own[nibble_state_block];
  for (size_t i = 0; i < n; i++) values[i] = x[i] * factor;
  encode_whole(map, values, absmax * factor, own);
  memcpy(codes, own, n);
}

#define NIBBLE_OPTIMIZERS_TABLE                                                                                          \
  {                                                                                                                      \
    .adam = adam, .descent = descent, .lion = lion, .schedule_free = schedule_free, .move_towards = move_towards,        \
    .square_sum = square_sum, .add_squares = add_squares, .mean_squares = mean_squares, .update_sum = update_sum,        \
    .update_step = update_step, .inverse_roots = inverse_roots, .decode = decode_block, .greatest = greatest,            \
    .encode = encode_block                                                                                               \
  }

#endif
