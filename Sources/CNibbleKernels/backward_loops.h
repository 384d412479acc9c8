// The way back through norms, activations and softmax, over lanes.h like the way forth.

#ifndef NIBBLE_BACKWARD_LOOPS_H
#define NIBBLE_BACKWARD_LOOPS_H

#include "layers_loops.h"

LANES_INLINE lanes lanes_from(const float *p, size_t left) { return left >= NIBBLE_LANES ? lanes_load(p) : lanes_load_part(p, left); }

LANES_INLINE void lanes_to(float *p, lanes v, size_t left) {
  if (left >= NIBBLE_LANES) lanes_store(p, v);
  else lanes_store_part(p, v, left);
}

/// The slope of an activation.
LANES_INLINE lanes lanes_slope(nibble_activation f, lanes x) {
  switch (f) {
    case nibble_silu: {
      lanes s = lanes_sigmoid(x);
      return s * (1.0f + x * (1.0f - s));
    }
    case nibble_gelu: return lanes_normal_share(x) + x * 0.3989422804014327f * lanes_exp(x * x * -0.5f);
    case nibble_gelu_tanh: {
      // (1 + tanh(u)) / 2 is the sigmoid of 2u.
      lanes s = lanes_sigmoid(x * (x * x * 0.07135481282751f + 1.595769121605731f));
      return s + x * s * (1.0f - s) * (x * x * 0.21406443848253f + 1.595769121605731f);
    }
    case nibble_relu: return lanes_pick(x > 0.0f, lanes_all(1), lanes_all(0));
    case nibble_tanh: {
      lanes t = lanes_tanh(x);
      return 1.0f - t * t;
    }
    case nibble_quick_gelu: {
      lanes s = lanes_sigmoid(x * 1.702f);
      return s * (1.0f + x * 1.702f * (1.0f - s));
    }
    case nibble_relu2: return lanes_pick(x > 0.0f, x + x, lanes_all(0));
    case nibble_sigmoid: {
      lanes s = lanes_sigmoid(x);
      return s * (1.0f - s);
    }
    case nibble_mish: {
      lanes t = lanes_tanh_softplus(x);
      return t + x * (1.0f - t * t) * lanes_sigmoid(x);
    }
    case nibble_gelu_10: {
      lanes share = lanes_normal_share(x);
      lanes slope = share + x * 0.3989422804014327f * lanes_exp(x * x * -0.5f);
      return lanes_pick(x * share > 10.0f, lanes_all(0), slope);
    }
    case nibble_linear: return lanes_all(1);
    case nibble_leaky_relu: return lanes_pick(x > 0.0f, lanes_all(1), lanes_all(0.01f));
  }
  return x;
}

LANES_INLINE void activate_back_loop(nibble_activation f, const float *dy, const float *x, const float *up, size_t n, float *dx,
                                     float *dup) {
  for (size_t i = 0; i < n; i += NIBBLE_LANES) {
    size_t left = n - i;
    lanes v = lanes_from(x + i, left), d = lanes_from(dy + i, left);
    if (up) {
      lanes u = lanes_from(up + i, left);
      lanes_to(dup + i, d * lanes_activation(f, v), left);
      d = d * u;
    }
    lanes_to(dx + i, d * lanes_slope(f, v), left);
  }
}

LANES_STATIC void activate_back(nibble_activation f, const float *dy, const float *x, const float *up, size_t n, float *dx,
                                float *dup) {
  switch (f) {
    case nibble_silu: activate_back_loop(nibble_silu, dy, x, up, n, dx, dup); break;
    case nibble_gelu: activate_back_loop(nibble_gelu, dy, x, up, n, dx, dup); break;
    case nibble_gelu_tanh: activate_back_loop(nibble_gelu_tanh, dy, x, up, n, dx, dup); break;
    case nibble_relu: activate_back_loop(nibble_relu, dy, x, up, n, dx, dup); break;
    case nibble_tanh: activate_back_loop(nibble_tanh, dy, x, up, n, dx, dup); break;
    case nibble_quick_gelu: activate_back_loop(nibble_quick_gelu, dy, x, up, n, dx, dup); break;
    case nibble_relu2: activate_back_loop(nibble_relu2, dy, x, up, n, dx, dup); break;
    case nibble_sigmoid: activate_back_loop(nibble_sigmoid, dy, x, up, n, dx, dup); break;
    case nibble_mish: activate_back_loop(nibble_mish, dy, x, up, n, dx, dup); break;
    case nibble_gelu_10: activate_back_loop(nibble_gelu_10, dy, x, up, n, dx, dup); break;
    case nibble_linear: activate_back_loop(nibble_linear, dy, x, up, n, dx, dup); break;
    case nibble_leaky_relu: activate_back_loop(nibble_leaky_relu, dy, x, up, n, dx, dup); break;
  }
}

LANES_STATIC void rms_norm_back(const float *dy, const float *x, const float *weight, size_t n, float eps, float *dx, float *dw) {
  lanes_d squares = {}, dots = {};
  for (size_t i = 0; i < n; i += NIBBLE_LANES) {
    lanes v = lanes_from(x + i, n - i);
    lanes_add_square(&squares, v);
    lanes_add(&dots, lanes_from(dy + i, n - i) * lanes_from(weight + i, n - i) * v);
  }
  double r = 1 / __builtin_sqrt(lanes_sum_d(&squares) / (double)n + eps);
  lanes scale = lanes_all((float)r), pull = lanes_all((float)(r * r * r * lanes_sum_d(&dots) / (double)n));
  for (size_t i = 0; i < n; i += NIBBLE_LANES) {
    size_t left = n - i;
    lanes v = lanes_from(x + i, left), d = lanes_from(dy + i, left);
    if (dw) lanes_to(dw + i, lanes_from(dw + i, left) + d * v * scale, left);
    lanes_to(dx + i, scale * lanes_from(weight + i, left) * d - pull * v, left);
  }
}

LANES_STATIC void layer_norm_back(const float *dy, const float *x, const float *weight, size_t n, float eps, float *dx, float *dw,
                                  float *db) {
  lanes_d sum = {}, squares = {}, slopes = {}, dots = {};
  for (size_t i = 0; i < n; i += NIBBLE_LANES) lanes_add(&sum, lanes_from(x + i, n - i));
  double average = lanes_sum_d(&sum) / (double)n;
  float first = (float)average;
  lanes_mean mean = {lanes_all(first), lanes_all((float)(average - (double)first))};
  for (size_t i = 0; i < n; i += NIBBLE_LANES) {
    size_t left = n - i;
    lanes v = lanes_from_mean(lanes_from(x + i, left), &mean);
    if (left < NIBBLE_LANES) v = lanes_keep(v, left, 0);
    lanes g = lanes_from(dy + i, left) * lanes_from(weight + i, left);
    lanes_add_square(&squares, v);
    lanes_add(&slopes, g);
    lanes_add(&dots, g * v);
  }
  double r = 1 / __builtin_sqrt(lanes_sum_d(&squares) / (double)n + eps);
  lanes scale = lanes_all((float)r), shift = lanes_all((float)(lanes_sum_d(&slopes) / (double)n));
  lanes pull = lanes_all((float)(r * lanes_sum_d(&dots) / (double)n));
  for (size_t i = 0; i < n; i += NIBBLE_LANES) {
    size_t left = n - i;
    lanes hat = lanes_from_mean(lanes_from(x + i, left), &mean) * scale, d = lanes_from(dy + i, left);
    if (dw) lanes_to(dw + i, lanes_from(dw + i, left) + d * hat, left);
    if (db) lanes_to(db + i, lanes_from(db + i, left) + d, left);
    lanes_to(dx + i, scale * (d * lanes_from(weight + i, left) - shift - hat * pull), left);
  }
}

LANES_STATIC void softmax_back(const float *p, float *d, size_t n, float scale) {
  lanes_d dots = {};
  for (size_t i = 0; i < n; i += NIBBLE_LANES) lanes_add(&dots, lanes_from(p + i, n - i) * lanes_from(d + i, n - i));
  lanes dot = lanes_all((float)lanes_sum_d(&dots)), factor = lanes_all(scale);
  for (size_t i = 0; i < n; i += NIBBLE_LANES) {
    size_t left = n - i;
    lanes_to(d + i, factor * lanes_from(p + i, left) * (lanes_from(d + i, left) - dot), left);
  }
}

#endif
