// What a network of images does between its matrix products. An image is a row of `channels` numbers for each of its positions, line by
// line.

#ifndef CNIBBLEWINDOWS_H
#define CNIBBLEWINDOWS_H

#include "CNibbleKernels.h"

/// The windows that slide over one image, with zeros beyond its edges.
typedef struct {
  size_t channels, height, width;          ///< of the image
  size_t window_height, window_width;
  size_t stride, padding;
  size_t out_height, out_width;            ///< windows down and across
} nibble_windows;

/// The window at each place of lines `first` ... `end - 1`, [places][channels][window_height][window_width].
void nibble_windows_take(const nibble_windows *windows, const float *x, size_t first, size_t end, float *out);

/// The way back of all lines: adds every number of every window to the place of x it was taken from.
void nibble_windows_give(const nibble_windows *windows, const float *taken, float *x);

/// The greatest number of each channel in each window, [places][channels]. `from`, if there, gets the position it was at; the first of
/// equals counts, and NaN is greater than any number, as in torch.
void nibble_windows_greatest(const nibble_windows *windows, const float *x, float *out, uint32_t *from);

/// The way back: adds dy to the positions that `from` names.
void nibble_windows_greatest_back(const nibble_windows *windows, const float *dy, const uint32_t *from, float *dx);

/// out = x * scale + shift by channel, and no less than 0 if `positive`. `out` may be `x`.
void nibble_channels_scale(nibble_variant variant, const float *x, size_t rows, size_t channels, const float *scale, const float *shift, int positive, float *out);

/// Adds to sums[channel] of x and, behind them, of x * x.
void nibble_channels_moments(nibble_variant variant, const float *x, size_t rows, size_t channels, double *sums);

/// Adds to sums[channel] of dy and, behind them, of dy * (x - mean) * inverse.
void nibble_channels_moments_back(nibble_variant variant, const float *dy, const float *x, size_t rows, size_t channels, const float *mean, const float *inverse,
                                  double *sums);

/// out = a * dy + b * x + c by channel. `out` may be `dy`.
void nibble_channels_combine(nibble_variant variant, const float *dy, const float *x, size_t rows, size_t channels, const float *a, const float *b, const float *c,
                             float *out);

#endif
