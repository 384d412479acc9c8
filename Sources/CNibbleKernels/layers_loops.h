// Norms, activations, softmax and the small loops between products, written once over lanes.h; every variant
// compiles them for its own instructions.

#ifndef NIBBLE_LAYERS_LOOPS_H
#define NIBBLE_LAYERS_LOOPS_H

#include <math.h>

#include "lanes.h"
#include "layers.h"

/// Sums over float32 in float64: converting is cheap beside loading, and no choice of lanes could match it.
LANES_INLINE void lanes_add(lanes_d *sum, lanes v) { *sum += __builtin_convertvector(v, lanes_d); }

LANES_INLINE void lanes_add_square(lanes_d *sum, lanes v) {
  lanes_d d = __builtin_convertvector(v, lanes_d);
  *sum += d * d;
}

LANES_STATIC void rms_norm(const float *x, const float *weight, size_t n, float eps, float *out) {
  lanes_d squares = {};
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_add_square(&squares, lanes_load(x + i));
  if (i < n) lanes_add_square(&squares, lanes_load_part(x + i, n - i));
  lanes scale = lanes_all((float)(1 / __builtin_sqrt(lanes_sum_d(&squares) / (double)n + eps)));
  for (i = 0; i + NIBBLE_LANES <= n; i += NIBBLE_LANES)
    lanes_store(out + i, lanes_load(x + i) * scale * lanes_load(weight + i));
  if (i < n) lanes_store_part(out + i, lanes_load_part(x + i, n - i) * scale * lanes_load_part(weight + i, n - i), n - i);
}

/// x - mean, the mean in two floats: the first difference is exact where it matters, near the mean.
typedef struct {
  lanes first, rest;
} lanes_mean;

LANES_INLINE lanes lanes_from_mean(lanes x, const lanes_mean *mean) { return x - mean->first - mean->rest; }

LANES_STATIC void layer_norm(const float *x, const float *weight, const float *bias, size_t n, float eps, float *out) {
  lanes_d sum = {}, squares = {};
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_add(&sum, lanes_load(x + i));
  if (i < n) lanes_add(&sum, lanes_load_part(x + i, n - i));
  double average = lanes_sum_d(&sum) / (double)n;
  float first = (float)average;
  lanes_mean mean = {lanes_all(first), lanes_all((float)(average - (double)first))};
  for (i = 0; i + NIBBLE_LANES <= n; i += NIBBLE_LANES)
    lanes_add_square(&squares, lanes_from_mean(lanes_load(x + i), &mean));
  if (i < n) lanes_add_square(&squares, lanes_keep(lanes_from_mean(lanes_load_part(x + i, n - i), &mean), n - i, 0));
  lanes scale = lanes_all((float)(1 / __builtin_sqrt(lanes_sum_d(&squares) / (double)n + eps)));
  for (i = 0; i < n; i += NIBBLE_LANES) {
    size_t left = n - i;
    if (left >= NIBBLE_LANES) {
      lanes y = lanes_from_mean(lanes_load(x + i), &mean) * scale * lanes_load(weight + i);
      lanes_store(out + i, bias ? y + lanes_load(bias + i) : y);
    } else {
      lanes y = lanes_from_mean(lanes_load_part(x + i, left), &mean) * scale * lanes_load_part(weight + i, left);
      lanes_store_part(out + i, bias ? y + lanes_load_part(bias + i, left) : y, left);
    }
  }
}

/// 1 / (1 + exp(-x)).
LANES_INLINE lanes lanes_sigmoid(lanes x) { return 1.0f / (1.0f + lanes_exp(-x)); }

/// tanh(log(1 + e)) with e = exp(x), which is e (e + 2) / (e (e + 2) + 2).
LANES_INLINE lanes lanes_tanh_softplus(lanes x) {
  lanes e = lanes_exp(lanes_pick(x > 20.0f, lanes_all(20.0f), x));
  lanes product = e * (e + 2.0f);
  return product / (product + 2.0f);
}

/// As quotients by 1 + exp(-...), silu and both gelus keep the digits of their small results.
LANES_INLINE lanes lanes_activation(nibble_activation f, lanes x) {
  switch (f) {
    case nibble_silu: return x / (1.0f + lanes_exp(-x));
    case nibble_gelu: return x * lanes_normal_share(x);
    // 1 + tanh(u) = 2 / (1 + exp(-2u)); the factors are -2 sqrt(2 / pi) and 0.044715 times it.
    case nibble_gelu_tanh: return x / (1.0f + lanes_exp(x * (x * x * -0.07135481282751f - 1.595769121605731f)));
    case nibble_relu: return lanes_pick(x < 0.0f, lanes_all(0), x);
    case nibble_tanh: return lanes_tanh(x);
    case nibble_quick_gelu: return x / (1.0f + lanes_exp(x * -1.702f));
    case nibble_relu2: {
      lanes y = lanes_pick(x < 0.0f, lanes_all(0), x);
      return y * y;
    }
    case nibble_sigmoid: return lanes_sigmoid(x);
    case nibble_mish: return x * lanes_tanh_softplus(x);
    case nibble_gelu_10: {
      lanes y = x * lanes_normal_share(x);
      return lanes_pick(y > 10.0f, lanes_all(10.0f), y);
    }
    case nibble_linear: return x;
    case nibble_leaky_relu: return lanes_pick(x < 0.0f, x * 0.01f, x);
  }
  return x;
}

LANES_INLINE void activate_loop(nibble_activation f, const float *x, const float *up, size_t n, float *out) {
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) {
    lanes y = lanes_activation(f, lanes_load(x + i));
    lanes_store(out + i, up ? y * lanes_load(up + i) : y);
  }
  if (i < n) {
    lanes y = lanes_activation(f, lanes_load_part(x + i, n - i));
    lanes_store_part(out + i, up ? y * lanes_load_part(up + i, n - i) : y, n - i);
  }
}

LANES_STATIC void activate(nibble_activation f, const float *x, const float *up, size_t n, float *out) {
  switch (f) {
    case nibble_silu: activate_loop(nibble_silu, x, up, n, out); break;
    case nibble_gelu: activate_loop(nibble_gelu, x, up, n, out); break;
    case nibble_gelu_tanh: activate_loop(nibble_gelu_tanh, x, up, n, out); break;
    case nibble_relu: activate_loop(nibble_relu, x, up, n, out); break;
    case nibble_tanh: activate_loop(nibble_tanh, x, up, n, out); break;
    case nibble_quick_gelu: activate_loop(nibble_quick_gelu, x, up, n, out); break;
    case nibble_relu2: activate_loop(nibble_relu2, x, up, n, out); break;
    case nibble_sigmoid: activate_loop(nibble_sigmoid, x, up, n, out); break;
    case nibble_mish: activate_loop(nibble_mish, x, up, n, out); break;
    case nibble_gelu_10: activate_loop(nibble_gelu_10, x, up, n, out); break;
    case nibble_linear: activate_loop(nibble_linear, x, up, n, out); break;
    case nibble_leaky_relu: activate_loop(nibble_leaky_relu, x, up, n, out); break;
  }
}

LANES_STATIC void add_scaled(float a, const float *x, size_t n, float *y) {
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_store(y + i, lanes_load(x + i) * a + lanes_load(y + i));
  if (i < n) lanes_store_part(y + i, lanes_load_part(x + i, n - i) * a + lanes_load_part(y + i, n - i), n - i);
}

LANES_STATIC void multiply_by(const float *x, size_t n, float *y) {
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_store(y + i, lanes_load(x + i) * lanes_load(y + i));
  if (i < n) lanes_store_part(y + i, lanes_load_part(x + i, n - i) * lanes_load_part(y + i, n - i), n - i);
}

/// The greatest of n numbers, NaN left out; -infinity for n = 0.
LANES_INLINE float greatest_of(const float *x, size_t n) {
  lanes greatest = lanes_all(-__builtin_inff());
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) greatest = lanes_max(lanes_load(x + i), greatest);
  if (i < n) greatest = lanes_max(lanes_keep(lanes_load_part(x + i, n - i), n - i, -__builtin_inff()), greatest);
  return lanes_greatest(greatest);
}

LANES_STATIC void softmax(float *x, size_t n, float scale) {
  float greatest = greatest_of(x, n);
  // With nothing but -infinity, 0 in its place gives exponentials of 0; beside NaN they stay NaN.
  lanes base = lanes_all(greatest == -__builtin_inff() ? 0 : greatest);
  lanes_d sums = {};
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) {
    lanes e = lanes_exp((lanes_load(x + i) - base) * scale);
    lanes_store(x + i, e);
    lanes_add(&sums, e);
  }
  if (i < n) {
    lanes e = lanes_exp((lanes_load_part(x + i, n - i) - base) * scale);
    lanes_store_part(x + i, e, n - i);
    lanes_add(&sums, lanes_keep(e, n - i, 0));
  }
  double sum = lanes_sum_d(&sums);
  float inverse = sum == 0 ? 0 : (float)(1 / sum);
  for (i = 0; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_store(x + i, lanes_load(x + i) * inverse);
  if (i < n) lanes_store_part(x + i, lanes_load_part(x + i, n - i) * inverse, n - i);
}

LANES_STATIC double log_sum_exp(const float *x, size_t n) {
  float greatest = greatest_of(x, n);
  // With an infinite greatest, 0 in its place leaves the sum 0 or infinite, and NaN beside it NaN.
  float base = (nibble_bits(greatest) & 0x7fffffffu) == 0x7f800000u ? 0 : greatest;
  lanes_d sums = {};
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_add(&sums, lanes_exp(lanes_load(x + i) - base));
  if (i < n) lanes_add(&sums, lanes_keep(lanes_exp(lanes_load_part(x + i, n - i) - base), n - i, 0));
  return log(lanes_sum_d(&sums)) + (double)base;
}

LANES_STATIC void rotate(float *x, const float *cosines, const float *sines, size_t half) {
  size_t i = 0;
  for (; i + NIBBLE_LANES <= half; i += NIBBLE_LANES) {
    lanes a = lanes_load(x + i), b = lanes_load(x + half + i);
    lanes c = lanes_load(cosines + i), s = lanes_load(sines + i);
    lanes_store(x + i, a * c - b * s);
    lanes_store(x + half + i, b * c + a * s);
  }
  if (i < half) {
    size_t left = half - i;
    lanes a = lanes_load_part(x + i, left), b = lanes_load_part(x + half + i, left);
    lanes c = lanes_load_part(cosines + i, left), s = lanes_load_part(sines + i, left);
    lanes_store_part(x + i, a * c - b * s, left);
    lanes_store_part(x + half + i, b * c + a * s, left);
  }
}

/// Only the stretch with the greatest, or the first with a NaN, is searched for the index.
LANES_STATIC size_t argmax(const float *x, size_t n, float *greatest) {
  enum { stretch = 1024 };
  float best = -__builtin_inff();
  size_t found = 0;
  for (size_t start = 0; start < n; start += stretch) {
    size_t count = n - start < stretch ? n - start : stretch, i = start;
    lanes most = lanes_all(-__builtin_inff());
    lanes_i nan = {};
    for (; i + NIBBLE_LANES <= start + count; i += NIBBLE_LANES) {
      lanes v = lanes_load(x + i);
      most = lanes_max(v, most);
      nan |= v != v;
    }
    float here = lanes_greatest(most);
    int any_nan = lanes_any(nan);
    for (; i < start + count; i++) {
      here = x[i] > here ? x[i] : here;
      any_nan |= x[i] != x[i];
    }
    if (any_nan) {
      for (i = start; x[i] == x[i];) i++;
      *greatest = x[i];
      return i;
    }
    if (here > best) {
      best = here;
      found = start;
    }
  }
  if (n == 0) {
    *greatest = best;
    return 0;
  }
  while (x[found] != best) found++;
  *greatest = x[found];
  return found;
}

/// From the bits, whatever the compiler may assume about floats.
LANES_STATIC int all_finite(const float *x, size_t n) {
  enum { stretch = 4096 };
  for (size_t start = 0; start < n; start += stretch) {
    size_t end = n - start < stretch ? n : start + stretch, i = start;
    lanes_i bad = {};
    for (; i + NIBBLE_LANES <= end; i += NIBBLE_LANES) {
      lanes_i bits;
      memcpy(&bits, x + i, sizeof bits);
      bad |= (bits & 0x7fffffff) > 0x7f7fffff;
    }
    int any_bad = lanes_any(bad);
    for (; i < end; i++) any_bad |= (nibble_load32(x, i) & 0x7fffffffu) > 0x7f7fffffu;
    if (any_bad) return 0;
  }
  return 1;
}

#endif
