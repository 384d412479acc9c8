// The optimizers, written once over sixteen numbers at a time; every variant compiles them for its own registers. All variants have the
// same lanes, so that sums are the same too.
//
// A file that includes this defines before: WIDE_TARGET, the attribute that chooses the instructions, and WIDE_OWN_STATES if it has its own
// decode_block and encode_block.

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

WIDE_INLINE size_t wide_part(size_t left) { return left < WIDE ? left : WIDE; }

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

WIDE_STATIC void adam(const nibble_adam *step, float *p, const float *g, float *m, float *v, size_t n) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide x = wide_load(p + i, part) * step->keep, d = wide_load(g + i, part);
    if (step->coupled != 0) d += step->coupled * x;
    wide first = wide_load(m + i, part), second = wide_load(v + i, part);
    first += step->first_share * (d - first);
    second = step->beta2 * second + step->second_share * d * d;
    wide_store(m + i, first, part);
    wide_store(v + i, second, part);
    wide_store(p + i, x - step->size * first / (wide_root(second) / step->root + step->epsilon), part);
  }
}

WIDE_STATIC void descent(const nibble_descent *step, float *p, const float *g, float *m, size_t n) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide x = wide_load(p + i, part), d = wide_load(g + i, part) + step->decay * x;
    if (m) {
      if (!step->first) d += step->momentum * wide_load(m + i, part);
      wide_store(m + i, d, part);
    }
    wide_store(p + i, x - step->rate * d, part);
  }
}

WIDE_STATIC void lion(const nibble_lion *step, float *p, const float *g, float *m, size_t n) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide x = wide_load(p + i, part) * step->keep, d = wide_load(g + i, part), first = wide_load(m + i, part);
    wide c = step->beta1 * first + step->share1 * d;
    wide_i up = c > 0.0f, down = c < 0.0f;
    x -= wide_pick(up, wide_all(step->rate), wide_pick(down, wide_all(-step->rate), wide_all(0)));
    wide_store(m + i, step->beta2 * first + step->share2 * d, part);
    wide_store(p + i, x, part);
  }
}

WIDE_STATIC void schedule_free(const nibble_schedule_free *step, float *y, const float *g, float *z, float *v, size_t n) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide x = wide_load(y + i, part), d = wide_load(g + i, part), end = wide_load(z + i, part), second = wide_load(v + i, part);
    second = step->beta2 * second + step->second_share * d * d;
    d = d / (wide_root(second / step->correction) + step->epsilon);
    if (step->decay != 0) d += step->decay * x;
    wide_store(y + i, wide_towards(x, end, step->weight) + step->slope * d, part);
    wide_store(z + i, end - step->rate * d, part);
    wide_store(v + i, second, part);
  }
}

WIDE_STATIC void move_towards(float weight, float *x, const float *z, size_t n) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide_store(x + i, wide_towards(wide_load(x + i, part), wide_load(z + i, part), weight), part);
  }
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
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide x = wide_load(g + i, part);
    wide_store(v + i, keep * wide_load(v + i, part) + share * (x * x + epsilon), part);
  }
}

WIDE_STATIC double update_sum(const float *g, const float *factors, float row, size_t n) {
  wide_d sums = {};
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide u = row * wide_load(factors + i, part) * wide_load(g + i, part);
    sums += __builtin_convertvector(u * u, wide_d);
  }
  return wide_sum(&sums);
}

WIDE_STATIC void update_step(float *p, const float *g, const float *factors, float row, size_t n, float decay, float size) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide x = wide_load(p + i, part);
    if (decay != 0) x += decay * x;
    wide_store(p + i, x - size * (row * wide_load(factors + i, part) * wide_load(g + i, part)), part);
  }
}

WIDE_STATIC void inverse_roots(const float *x, size_t n, float scale, float *out) {
  for (size_t i = 0; i < n; i += WIDE) {
    size_t part = wide_part(n - i);
    wide_store(out + i, 1.0f / wide_root(wide_load(x + i, part) * scale), part);
  }
}

/// The greatest magnitude, by its bits: NaN above infinity above the rest.
WIDE_STATIC float greatest(const float *x, size_t n) {
  wide_i most = {};
  for (size_t i = 0; i < n; i += WIDE) {
    wide_i bits = (wide_i)wide_load(x + i, wide_part(n - i)) & 0x7fffffff;
    wide_i larger = bits > most;
    most = (larger & bits) | (~larger & most);
  }
  int32_t greatest = 0;
  for (int i = 0; i < WIDE; i++) greatest = most[i] > greatest ? most[i] : greatest;
  return nibble_float((uint32_t)greatest);
}

#if !defined(WIDE_OWN_STATES)
WIDE_STATIC void decode_block(const nibble_state_map *map, const uint8_t *codes, size_t n, float absmax, float *out) {
  for (size_t i = 0; i < n; i++) out[i] = map->values[codes[i]] * absmax;
}

WIDE_STATIC void encode_block(const nibble_state_map *map, const float *x, size_t n, float absmax, uint8_t *codes) {
  float s[nibble_state_block];
  for (size_t i = 0; i < n; i += WIDE) wide_store(s + i, wide_load(x + i, wide_part(n - i)) / absmax, wide_part(n - i));
  for (size_t i = 0; i < n; i++) {
    uint32_t bits = nibble_bits(s[i]);
    unsigned code = map->tables.first[bits >> 16];
    while (s[i] > map->tables.threshold[code]) code++;
    if (map->is_signed)
      code -= (unsigned)(code == 127) & (unsigned)(x[i] < 0);
    else
      code += (unsigned)(code == 0) & (unsigned)(x[i] > 0);
    codes[i] = (uint8_t)(s[i] != s[i] ? 0 : code);
  }
}
#endif

#define NIBBLE_OPTIMIZERS_TABLE                                                                                          \
  {                                                                                                                      \
    .adam = adam, .descent = descent, .lion = lion, .schedule_free = schedule_free, .move_towards = move_towards,        \
    .square_sum = square_sum, .add_squares = add_squares, .mean_squares = mean_squares, .update_sum = update_sum,        \
    .update_step = update_step, .inverse_roots = inverse_roots, .decode = decode_block, .greatest = greatest,            \
    .encode = encode_block                                                                                               \
  }

#endif
