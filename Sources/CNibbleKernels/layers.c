// The public entries of the layers, which only choose a variant.

#include "layers.h"

const nibble_layers *nibble_layers_of(nibble_variant variant) {
  if (!nibble_variant_runs(variant)) return &nibble_portable_layers;
  switch (variant) {
#if defined(__x86_64__)
    case nibble_avx2: return &nibble_avx2_layers;
    case nibble_avx512bf16:
    case nibble_avx512: return &nibble_avx512_layers;
#elif defined(__aarch64__)
    case nibble_neon: return &nibble_neon_layers;
#endif
    default: return &nibble_portable_layers;
  }
}

void nibble_rms_norm(nibble_variant variant, const float *x, const float *weight, size_t n, float eps, float *out) {
  nibble_layers_of(variant)->rms_norm(x, weight, n, eps, out);
}

void nibble_layer_norm(nibble_variant variant, const float *x, const float *weight, const float *bias, size_t n, float eps,
                       float *out) {
  nibble_layers_of(variant)->layer_norm(x, weight, bias, n, eps, out);
}

void nibble_activate(nibble_variant variant, nibble_activation f, const float *x, size_t n, float *out) {
  nibble_layers_of(variant)->activate(f, x, NULL, n, out);
}

void nibble_activate_multiply(nibble_variant variant, nibble_activation f, const float *gate, const float *up, size_t n,
                              float *out) {
  nibble_layers_of(variant)->activate(f, gate, up, n, out);
}

void nibble_add_scaled(nibble_variant variant, float a, const float *x, size_t n, float *y) {
  nibble_layers_of(variant)->add_scaled(a, x, n, y);
}

void nibble_multiply_by(nibble_variant variant, const float *x, size_t n, float *y) {
  nibble_layers_of(variant)->multiply_by(x, n, y);
}

void nibble_softmax(nibble_variant variant, float *x, size_t n, float scale) { nibble_layers_of(variant)->softmax(x, n, scale); }

double nibble_log_sum_exp(nibble_variant variant, const float *x, size_t n) {
  return nibble_layers_of(variant)->log_sum_exp(x, n);
}

void nibble_rotate(nibble_variant variant, float *x, const float *cosines, const float *sines, size_t half) {
  nibble_layers_of(variant)->rotate(x, cosines, sines, half);
}

void nibble_rotate_pairs(float *x, const float *cosines, const float *sines, size_t count) {
  for (size_t i = 0; i < count; i++) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = b * cosines[i] + a * sines[i];
  }
}

void nibble_scale(float a, float *x, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] *= a;
}

void nibble_tanh_back(const float *t, float *d, size_t n) {
  for (size_t i = 0; i < n; i++) d[i] *= 1 - t[i] * t[i];
}

size_t nibble_argmax(nibble_variant variant, const float *x, size_t n, float *greatest) {
  return nibble_layers_of(variant)->argmax(x, n, greatest);
}

int nibble_all_finite(nibble_variant variant, const float *x, size_t n) { return nibble_layers_of(variant)->all_finite(x, n); }

void nibble_attend(nibble_variant variant, const float *q, size_t queries, size_t q_stride, const nibble_answers *answers, float *out,
                   size_t out_stride, float *scratch) {
  nibble_layers_of(variant)->attend(q, queries, q_stride, answers, out, out_stride, scratch);
}

void nibble_low_rank(nibble_variant variant, const float *left, size_t left_stride, size_t rows, const float *right,
                     size_t right_stride, size_t columns, size_t rank, float *out, size_t out_stride) {
  nibble_layers_of(variant)->low_rank(left, left_stride, rows, right, right_stride, columns, rank, out, out_stride);
}

void nibble_change_sums(nibble_variant variant, const float *base, const float *written, const float *delta, size_t n,
                        double sums[4]) {
  nibble_layers_of(variant)->change_sums(base, written, delta, n, sums);
}

size_t nibble_shape_scratch(size_t rank) { return 64 * (rank > 0 ? rank : 1); }

void nibble_shape(nibble_variant variant, const nibble_shaping *plan, const float *t, size_t element, size_t rows, uint8_t *codes,
                  float *values, float *carries, void *scratch) {
  size_t count = rows * plan->columns;
  nibble_layers_of(variant)->shape(plan, t, element, rows, codes, values, carries, scratch);
  // Two codes a byte, the first in the high nibble; what pads the last is the code of zero.
  for (size_t i = 0; i < count; i += 2)
    codes[i / 2] = (uint8_t)(codes[i] << 4 | (i + 1 < count ? codes[i + 1] : plan->numbers[plan->zero]));
}

void nibble_activate_back(nibble_variant variant, nibble_activation f, const float *dy, const float *x, size_t n, float *dx) {
  nibble_layers_of(variant)->activate_back(f, dy, x, NULL, n, dx, NULL);
}

void nibble_activate_multiply_back(nibble_variant variant, nibble_activation f, const float *dy, const float *gate,
                                   const float *up, size_t n, float *dgate, float *dup) {
  nibble_layers_of(variant)->activate_back(f, dy, gate, up, n, dgate, dup);
}

void nibble_rms_norm_back(nibble_variant variant, const float *dy, const float *x, const float *weight, size_t n, float eps,
                          float *dx, float *dw) {
  nibble_layers_of(variant)->rms_norm_back(dy, x, weight, n, eps, dx, dw);
}

void nibble_layer_norm_back(nibble_variant variant, const float *dy, const float *x, const float *weight, size_t n, float eps,
                            float *dx, float *dw, float *db) {
  nibble_layers_of(variant)->layer_norm_back(dy, x, weight, n, eps, dx, dw, db);
}

void nibble_softmax_back(nibble_variant variant, const float *p, float *d, size_t n, float scale) {
  nibble_layers_of(variant)->softmax_back(p, d, n, scale);
}

void nibble_channels_scale(nibble_variant variant, const float *x, size_t rows, size_t channels, const float *scale, const float *shift, int positive,
                           float *out) {
  nibble_layers_of(variant)->channels_scale(x, rows, channels, scale, shift, positive, out);
}

void nibble_channels_moments(nibble_variant variant, const float *x, size_t rows, size_t channels, double *sums) {
  nibble_layers_of(variant)->channels_moments(x, rows, channels, sums);
}

void nibble_channels_moments_back(nibble_variant variant, const float *dy, const float *x, size_t rows, size_t channels, const float *mean,
                                  const float *inverse, double *sums) {
  nibble_layers_of(variant)->channels_moments_back(dy, x, rows, channels, mean, inverse, sums);
}

void nibble_channels_combine(nibble_variant variant, const float *dy, const float *x, size_t rows, size_t channels, const float *a, const float *b,
                             const float *c, float *out) {
  nibble_layers_of(variant)->channels_combine(dy, x, rows, channels, a, b, c, out);
}
