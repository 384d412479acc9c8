// Convolutions of one image with zeros around it, forward and back, over lanes.h. Nothing is copied into windows: sums of a few places and as many outputs as
// two registers hold stay in registers while all taps and channels pass.

#ifndef NIBBLE_CONVOLUTION_LOOPS_H
#define NIBBLE_CONVOLUTION_LOOPS_H

#include "backward_loops.h"

// Sums that registers hold: of `convolve_places` places and two registers of numbers, or of twice as many and one.
enum { convolve_places = NIBBLE_LANES == 16 ? 12 : 6 };

/// The numbers of a register that are there; all of the others.
LANES_INLINE lanes lanes_some(const float *p, size_t count) { return count >= NIBBLE_LANES ? lanes_load(p) : lanes_load_part(p, count); }

/// One after another for `count` things in as few equal parts as have at most `most` each: the part from `start` on.
LANES_INLINE size_t convolve_part(size_t count, size_t most, size_t start) {
  size_t left = count - start, parts = (left + most - 1) / most;
  return (left + parts - 1) / parts;
}

// Each loop comes for a known number of places, or channels, so that its sums are registers.
#define CONVOLVE_CASE(n, loop, ...) case n: loop(n, __VA_ARGS__); break;
#define CONVOLVE_SOME(count, loop, ...)                                                                                                   \
  switch (count) {                                                                                                                        \
    CONVOLVE_CASE(1, loop, __VA_ARGS__) CONVOLVE_CASE(2, loop, __VA_ARGS__) CONVOLVE_CASE(3, loop, __VA_ARGS__)                           \
    CONVOLVE_CASE(4, loop, __VA_ARGS__) CONVOLVE_CASE(5, loop, __VA_ARGS__) CONVOLVE_CASE(6, loop, __VA_ARGS__)                           \
    CONVOLVE_CASE(7, loop, __VA_ARGS__) CONVOLVE_CASE(8, loop, __VA_ARGS__) CONVOLVE_CASE(9, loop, __VA_ARGS__)                           \
    CONVOLVE_CASE(10, loop, __VA_ARGS__) CONVOLVE_CASE(11, loop, __VA_ARGS__) CONVOLVE_CASE(12, loop, __VA_ARGS__)                        \
    default: break;                                                                                                                       \
  }

// MARK: Forward

/// The outputs of one block at `n` places.
LANES_INLINE void convolve_block(const size_t n, const size_t registers, const nibble_convolution *k, const float *x, const float *weights, size_t outputs,
                                 float *out) {
  lanes sums[12][2];
#pragma clang loop unroll(full)
  for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++) sums[q][r] = (lanes){};
  size_t step = k->stride * k->channels;
  for (size_t i = 0; i < k->window_height; i++) {
    // Taps of a line lie side by side, as their channels do.
    const float *row = x + i * k->padded_width * k->channels;
    for (size_t c = 0; c < k->window_width * k->channels; c++, weights += registers * NIBBLE_LANES) {
      lanes w[2];
#pragma clang loop unroll(full)
      for (size_t r = 0; r < registers; r++) w[r] = lanes_load(weights + r * NIBBLE_LANES);
#pragma clang loop unroll(full)
      for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
        for (size_t r = 0; r < registers; r++) sums[q][r] += row[q * step + c] * w[r];
    }
  }
#pragma clang loop unroll(full)
  for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++)
      if (r * NIBBLE_LANES < outputs) lanes_to(out + q * k->outputs + r * NIBBLE_LANES, sums[q][r], outputs - r * NIBBLE_LANES);
}

LANES_STATIC void convolve(const nibble_convolution *k, const float *x, const float *weights, size_t line, float *out) {
  size_t taps = k->window_height * k->window_width, step = k->stride * k->channels;
  x += line * k->stride * k->padded_width * k->channels;
  for (size_t o = 0; o < k->outputs;) {
    size_t left = k->outputs - o, wide = left > NIBBLE_LANES, most = wide ? convolve_places : 12;
    for (size_t p = 0; p < k->out_width;) {
      size_t n = convolve_part(k->out_width, most, p);
      if (wide) { CONVOLVE_SOME(n, convolve_block, 2, k, x + p * step, weights, left, out + p * k->outputs + o) }
      else { CONVOLVE_SOME(n, convolve_block, 1, k, x + p * step, weights, left, out + p * k->outputs + o) }
      p += n;
    }
    size_t width = (wide ? 2 : 1) * NIBBLE_LANES;
    weights += taps * k->channels * width;
    o += width;
  }
}

// MARK: The way back

/// What `n` places of dy are for the channels of one block under one tap.
LANES_INLINE void give_block(const size_t n, const size_t registers, const nibble_convolution *k, const float *dy, const float *weights, size_t channels,
                             float *dx) {
  lanes sums[12][2];
  size_t step = k->stride * k->channels;
#pragma clang loop unroll(full)
  for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++)
      sums[q][r] = r * NIBBLE_LANES < channels ? lanes_some(dx + q * step + r * NIBBLE_LANES, channels - r * NIBBLE_LANES) : (lanes){};
  for (size_t o = 0; o < k->outputs; o++, weights += registers * NIBBLE_LANES) {
    lanes w[2];
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++) w[r] = lanes_load(weights + r * NIBBLE_LANES);
#pragma clang loop unroll(full)
    for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
      for (size_t r = 0; r < registers; r++) sums[q][r] += dy[q * k->outputs + o] * w[r];
  }
#pragma clang loop unroll(full)
  for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++)
      if (r * NIBBLE_LANES < channels) lanes_to(dx + q * step + r * NIBBLE_LANES, sums[q][r], channels - r * NIBBLE_LANES);
}

LANES_STATIC void convolve_give(const nibble_convolution *k, const float *dy, const float *weights, size_t line, float *dx) {
  size_t step = k->stride * k->channels;
  for (size_t c = 0; c < k->channels;) {
    size_t left = k->channels - c, wide = left > NIBBLE_LANES, most = wide ? convolve_places : 12, width = (wide ? 2 : 1) * NIBBLE_LANES;
    for (size_t i = 0; i < k->window_height; i++) {
      for (size_t j = 0; j < k->window_width; j++, weights += k->outputs * width) {
        float *to = dx + ((line * k->stride + i) * k->padded_width + j) * k->channels + c;
        for (size_t p = 0; p < k->out_width;) {
          size_t n = convolve_part(k->out_width, most, p);
          if (wide) { CONVOLVE_SOME(n, give_block, 2, k, dy + p * k->outputs, weights, left, to + p * step) }
          else { CONVOLVE_SOME(n, give_block, 1, k, dy + p * k->outputs, weights, left, to + p * step) }
          p += n;
        }
      }
    }
    c += width;
  }
}

/// Adds to the gradient of the weights of `n` channels under one tap, for the outputs of one block.
LANES_INLINE void gradient_block(const size_t n, const size_t registers, const nibble_convolution *k, const float *x, const float *dy, size_t lines, size_t outputs,
                                 float *dw) {
  lanes sums[12][2];
  size_t step = k->stride * k->channels;
#pragma clang loop unroll(full)
  for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++) sums[q][r] = lanes_load(dw + (q * registers + r) * NIBBLE_LANES);
  for (size_t line = 0; line < lines; line++, x += k->stride * k->padded_width * k->channels) {
    const float *row = x;
    for (size_t p = 0; p < k->out_width; p++, row += step, dy += k->outputs) {
      lanes d[2];
#pragma clang loop unroll(full)
      for (size_t r = 0; r < registers; r++)
        d[r] = r * NIBBLE_LANES < outputs ? lanes_some(dy + r * NIBBLE_LANES, outputs - r * NIBBLE_LANES) : (lanes){};
#pragma clang loop unroll(full)
      for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
        for (size_t r = 0; r < registers; r++) sums[q][r] += row[q] * d[r];
    }
  }
#pragma clang loop unroll(full)
  for (size_t q = 0; q < n; q++)
#pragma clang loop unroll(full)
    for (size_t r = 0; r < registers; r++) lanes_store(dw + (q * registers + r) * NIBBLE_LANES, sums[q][r]);
}

LANES_STATIC void convolve_gradient(const nibble_convolution *k, const float *x, const float *dy, size_t first, size_t end, float *dw) {
  // As many lines at a time as make some sixty places: what they take stays near.
  size_t lines = 64 / k->out_width < 1 ? 1 : 64 / k->out_width;
  for (size_t line = first; line < end; line += lines) {
    size_t count = end - line < lines ? end - line : lines;
    const float *own = dy + (line - first) * k->out_width * k->outputs;
    float *to = dw;
    for (size_t o = 0; o < k->outputs;) {
      size_t left = k->outputs - o, wide = left > NIBBLE_LANES, width = (wide ? 2 : 1) * NIBBLE_LANES, most = wide ? convolve_places : 12;
      for (size_t i = 0; i < k->window_height; i++) {
        const float *row = x + (line * k->stride + i) * k->padded_width * k->channels;
        // Channels of neighbouring taps lie side by side.
        size_t all = k->window_width * k->channels;
        for (size_t c = 0; c < all;) {
          size_t n = convolve_part(all, most, c);
          if (wide) { CONVOLVE_SOME(n, gradient_block, 2, k, row + c, own + o, count, left, to) }
          else { CONVOLVE_SOME(n, gradient_block, 1, k, row + c, own + o, count, left, to) }
          c += n, to += n * width;
        }
      }
      o += width;
    }
  }
}

#endif
