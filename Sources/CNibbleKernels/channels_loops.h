// Normalization by channel, over lanes.h. Sums are float64, row after row.

#ifndef NIBBLE_CHANNELS_LOOPS_H
#define NIBBLE_CHANNELS_LOOPS_H

#include "backward_loops.h"

LANES_STATIC void channels_scale(const float *x, size_t rows, size_t channels, const float *scale, const float *shift, int positive, float *out) {
  for (size_t row = 0; row < rows; row++, x += channels, out += channels) {
    for (size_t c = 0; c < channels; c += NIBBLE_LANES) {
      lanes y = lanes_from(x + c, channels - c) * lanes_from(scale + c, channels - c) + lanes_from(shift + c, channels - c);
      // NaN stays.
      if (positive) y = lanes_pick(y < 0.0f, lanes_all(0), y);
      lanes_to(out + c, y, channels - c);
    }
  }
}

LANES_STATIC void channels_moments(const float *x, size_t rows, size_t channels, double *sums) {
  for (size_t c = 0; c < channels; c += NIBBLE_LANES) {
    size_t left = channels - c < NIBBLE_LANES ? channels - c : NIBBLE_LANES;
    lanes_d sum = {}, squares = {};
    for (size_t row = 0; row < rows; row++) {
      lanes_d v = __builtin_convertvector(lanes_from(x + row * channels + c, left), lanes_d);
      sum += v, squares += v * v;
    }
    for (size_t l = 0; l < left; l++) sums[c + l] += sum[l], sums[channels + c + l] += squares[l];
  }
}

LANES_STATIC void channels_moments_back(const float *dy, const float *x, size_t rows, size_t channels, const float *mean, const float *inverse, double *sums) {
  for (size_t c = 0; c < channels; c += NIBBLE_LANES) {
    size_t left = channels - c < NIBBLE_LANES ? channels - c : NIBBLE_LANES;
    lanes m = lanes_from(mean + c, left), by = lanes_from(inverse + c, left);
    lanes_d sum = {}, products = {};
    for (size_t row = 0; row < rows; row++) {
      lanes_d d = __builtin_convertvector(lanes_from(dy + row * channels + c, left), lanes_d);
      sum += d, products += d * __builtin_convertvector((lanes_from(x + row * channels + c, left) - m) * by, lanes_d);
    }
    for (size_t l = 0; l < left; l++) sums[c + l] += sum[l], sums[channels + c + l] += products[l];
  }
}

LANES_STATIC void channels_combine(const float *dy, const float *x, size_t rows, size_t channels, const float *a, const float *b, const float *c, float *out) {
  for (size_t row = 0; row < rows; row++, x += channels, dy += channels, out += channels) {
    for (size_t k = 0; k < channels; k += NIBBLE_LANES) {
      size_t left = channels - k;
      lanes_to(
          out + k, lanes_from(a + k, left) * lanes_from(dy + k, left) + lanes_from(b + k, left) * lanes_from(x + k, left) + lanes_from(c + k, left), left);
    }
  }
}

#endif
