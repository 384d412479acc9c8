// The public entries of convolutions, and how their weights are packed: in blocks of as many outputs, or channels on the way back, as two registers hold, the last
// of one register if that is enough.

#include "layers.h"

/// Numbers of the block that begins at `start`.
static size_t block_width(size_t count, size_t start, size_t lanes) { return count - start > lanes ? 2 * lanes : lanes; }

size_t nibble_convolve_packed(nibble_variant variant, size_t across, size_t inputs) {
  size_t lanes = nibble_layers_of(variant)->lanes, width = 0;
  for (size_t at = 0; at < across; at += block_width(across, at, lanes)) width += block_width(across, at, lanes);
  return width * inputs;
}

/// Blocks of what lies `step` taps apart, `across` of it; in each every tap of what is packed along, `along` things `stride` taps apart.
static void pack(size_t lanes, size_t taps, size_t across, size_t step, size_t along, size_t stride, const float *weights, float *packed) {
  for (size_t at = 0; at < across;) {
    size_t width = block_width(across, at, lanes);
    for (size_t t = 0; t < taps; t++)
      for (size_t i = 0; i < along; i++)
        for (size_t l = 0; l < width; l++) *packed++ = at + l < across ? weights[((at + l) * step + i * stride) * taps + t] : 0;
    at += width;
  }
}

void nibble_convolve_pack(nibble_variant variant, const nibble_convolution *k, const float *weights, float *packed) {
  pack(nibble_layers_of(variant)->lanes, k->window_height * k->window_width, k->outputs, k->channels, k->channels, 1, weights, packed);
}

void nibble_convolve_pack_back(nibble_variant variant, const nibble_convolution *k, const float *weights, float *packed) {
  pack(nibble_layers_of(variant)->lanes, k->window_height * k->window_width, k->channels, 1, k->outputs, k->channels, weights, packed);
}

void nibble_convolve_unpack(nibble_variant variant, const nibble_convolution *k, const float *packed, float scale, float *dw) {
  size_t lanes = nibble_layers_of(variant)->lanes, taps = k->window_height * k->window_width;
  for (size_t o = 0; o < k->outputs;) {
    size_t width = block_width(k->outputs, o, lanes);
    for (size_t t = 0; t < taps; t++)
      for (size_t c = 0; c < k->channels; c++, packed += width)
        for (size_t l = 0; l < width && o + l < k->outputs; l++) dw[((o + l) * k->channels + c) * taps + t] += scale * packed[l];
    o += width;
  }
}

void nibble_convolve(nibble_variant variant, const nibble_convolution *k, const float *x, const float *packed, size_t line, float *out) {
  nibble_layers_of(variant)->convolve(k, x, packed, line, out);
}

void nibble_convolve_give(nibble_variant variant, const nibble_convolution *k, const float *dy, const float *packed, size_t line, float *dx) {
  nibble_layers_of(variant)->convolve_give(k, dy, packed, line, dx);
}

void nibble_convolve_gradient(nibble_variant variant, const nibble_convolution *k, const float *x, const float *dy, size_t first, size_t end, float *packed) {
  nibble_layers_of(variant)->convolve_gradient(k, x, dy, first, end, packed);
}
