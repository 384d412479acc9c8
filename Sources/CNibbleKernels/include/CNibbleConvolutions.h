// Convolutions of images that have their zeros around them, a line of places at a time. An image is a row of `channels` numbers for each of its positions, line by
// line.

#ifndef CNIBBLECONVOLUTIONS_H
#define CNIBBLECONVOLUTIONS_H

#include "CNibbleKernels.h"


typedef struct {
  size_t channels, outputs;
  size_t window_height, window_width, stride;
  size_t padded_width;  ///< positions of a line of x, zeros included
  size_t out_width;     ///< places of a line of windows; not 0
} nibble_convolution;

/// Numbers that weights are packed into: `inputs` is a window's, without channels if these are what a block is of.
size_t nibble_convolve_packed(nibble_variant variant, size_t across, size_t inputs);

/// Weights [outputs][channels][window_height][window_width] as `nibble_convolve` takes them.
void nibble_convolve_pack(nibble_variant variant, const nibble_convolution *k, const float *weights, float *packed);

/// The same as `nibble_convolve_give` takes them.
void nibble_convolve_pack_back(nibble_variant variant, const nibble_convolution *k, const float *weights, float *packed);

/// The places of one line, [out_width][outputs].
///
/// `x` is the first number of the padded image.
void nibble_convolve(nibble_variant variant, const nibble_convolution *k, const float *x, const float *packed, size_t line, float *out);

/// Adds what dy, the gradient of one line of places, is for the padded image.
void nibble_convolve_give(nibble_variant variant, const nibble_convolution *k, const float *dy, const float *packed, size_t line, float *dx);

/// Adds to the gradient of the weights, packed as for `nibble_convolve`, from lines `first` ... `end - 1`.
///
/// `dy` begins with line `first`.
void nibble_convolve_gradient(nibble_variant variant, const nibble_convolution *k, const float *x, const float *dy, size_t first, size_t end, float *packed);

/// dw[outputs][channels][window_height][window_width] += scale * packed
void nibble_convolve_unpack(nibble_variant variant, const nibble_convolution *k, const float *packed, float scale, float *dw);

#endif
