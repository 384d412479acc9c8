// The layers of one variant, as a table. Apart from the block kernels' table: no file needs both.

#ifndef NIBBLE_LAYERS_H
#define NIBBLE_LAYERS_H

#include "internal.h"

typedef struct {
  void (*rms_norm)(const float *x, const float *weight, size_t n, float eps, float *out);
  void (*layer_norm)(const float *x, const float *weight, const float *bias, size_t n, float eps, float *out);
  /// `up` is NULL for `nibble_activate`.
  void (*activate)(nibble_activation f, const float *x, const float *up, size_t n, float *out);
  void (*add_scaled)(float a, const float *x, size_t n, float *y);
  void (*multiply_by)(const float *x, size_t n, float *y);
  void (*softmax)(float *x, size_t n, float scale);
  double (*log_sum_exp)(const float *x, size_t n);
  void (*rotate)(float *x, const float *cosines, const float *sines, size_t half);
  size_t (*argmax)(const float *x, size_t n, float *greatest);
  int (*all_finite)(const float *x, size_t n);
  void (*attend)(const float *q, size_t queries, size_t q_stride, const nibble_answers *answers, float *out, size_t out_stride,
                 float *scratch);
  void (*low_rank)(const float *left, size_t left_stride, size_t rows, const float *right, size_t right_stride, size_t columns,
                   size_t rank, float *out, size_t out_stride);
  void (*change_sums)(const float *base, const float *written, const float *delta, size_t n, double *sums);
  void (*shape)(const nibble_shaping *plan, const float *t, size_t element, size_t rows, uint8_t *codes, float *values,
                float *carries, void *scratch);
  /// `up` and `dup` are NULL for `nibble_activate_back`.
  void (*activate_back)(nibble_activation f, const float *dy, const float *x, const float *up, size_t n, float *dx, float *dup);
  void (*rms_norm_back)(const float *dy, const float *x, const float *weight, size_t n, float eps, float *dx, float *dw);
  void (*layer_norm_back)(const float *dy, const float *x, const float *weight, size_t n, float eps, float *dx, float *dw,
                          float *db);
  void (*softmax_back)(const float *p, float *d, size_t n, float scale);
  void (*channels_scale)(const float *x, size_t rows, size_t channels, const float *scale, const float *shift, int positive, float *out);
  void (*channels_moments)(const float *x, size_t rows, size_t channels, double *sums);
  void (*channels_moments_back)(const float *dy, const float *x, size_t rows, size_t channels, const float *mean, const float *inverse, double *sums);
  void (*channels_combine)(const float *dy, const float *x, size_t rows, size_t channels, const float *a, const float *b, const float *c, float *out);
  size_t lanes;
  void (*convolve)(const nibble_convolution *k, const float *x, const float *weights, size_t line, float *out);
  void (*convolve_give)(const nibble_convolution *k, const float *dy, const float *weights, size_t line, float *dx);
  void (*convolve_gradient)(const nibble_convolution *k, const float *x, const float *dy, size_t first, size_t end, float *dw);
} nibble_layers;

const nibble_layers *nibble_layers_of(nibble_variant variant);

extern const nibble_layers nibble_portable_layers;
#if defined(__x86_64__)
extern const nibble_layers nibble_avx2_layers;
extern const nibble_layers nibble_avx512_layers;
#elif defined(__aarch64__)
extern const nibble_layers nibble_neon_layers;
#endif

#endif
