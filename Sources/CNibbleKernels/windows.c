// Windows over images, and normalization by channel.

#include "CNibbleWindows.h"


/// The row of channels under tap (i, j) of the window at (line, place); NULL beyond the edges.
static const float *under(const nibble_windows *w, const float *x, size_t line, size_t place, size_t i, size_t j) {
  size_t y = line * w->stride + i, across = place * w->stride + j;
  if (y < w->padding || across < w->padding) return NULL;
  y -= w->padding, across -= w->padding;
  return y < w->height && across < w->width ? x + (y * w->width + across) * w->channels : NULL;
}

void nibble_windows_take(const nibble_windows *w, const float *x, size_t first, size_t end, float *out) {
  size_t taps = w->window_height * w->window_width;
  for (size_t line = first; line < end; line++) {
    for (size_t place = 0; place < w->out_width; place++, out += taps * w->channels) {
      if (taps == 9) {
        // Nine streams side by side: the window of almost every convolution.
        static const float nothing[1] = {0};
        const float *from[9];
        size_t step[9];
        for (size_t t = 0; t < 9; t++) {
          const float *row = under(w, x, line, place, t / 3, t % 3);
          from[t] = row ? row : nothing;
          step[t] = row != NULL;
        }
        float *to = out;
        for (size_t c = 0; c < w->channels; c++, to += 9) {
          for (size_t t = 0; t < 9; t++) to[t] = from[t][c * step[t]];
        }
        continue;
      }
      for (size_t t = 0; t < taps; t++) {
        const float *row = under(w, x, line, place, t / w->window_width, t % w->window_width);
        for (size_t c = 0; c < w->channels; c++) out[c * taps + t] = row ? row[c] : 0;
      }
    }
  }
}

void nibble_windows_give(const nibble_windows *w, const float *taken, float *x) {
  size_t taps = w->window_height * w->window_width;
  for (size_t line = 0; line < w->out_height; line++) {
    for (size_t place = 0; place < w->out_width; place++, taken += taps * w->channels) {
      for (size_t t = 0; t < taps; t++) {
        float *row = (float *)under(w, x, line, place, t / w->window_width, t % w->window_width);
        if (!row) continue;
        for (size_t c = 0; c < w->channels; c++) row[c] += taken[c * taps + t];
      }
    }
  }
}

void nibble_windows_greatest(const nibble_windows *w, const float *x, float *out, uint32_t *from) {
  size_t taps = w->window_height * w->window_width;
  for (size_t line = 0; line < w->out_height; line++) {
    for (size_t place = 0; place < w->out_width; place++, out += w->channels) {
      int isFirst = 1;
      for (size_t t = 0; t < taps; t++) {
        const float *row = under(w, x, line, place, t / w->window_width, t % w->window_width);
        if (!row) continue;
        uint32_t position = (uint32_t)((size_t)(row - x) / w->channels);
        for (size_t c = 0; c < w->channels; c++) {
          if (!isFirst && !(row[c] > out[c] || row[c] != row[c])) continue;
          out[c] = row[c];
          if (from) from[c] = position;
        }
        isFirst = 0;
      }
      if (from) from += w->channels;
    }
  }
}

void nibble_windows_greatest_back(const nibble_windows *w, const float *dy, const uint32_t *from, float *dx) {
  for (size_t place = 0; place < w->out_height * w->out_width; place++, dy += w->channels, from += w->channels) {
    for (size_t c = 0; c < w->channels; c++) dx[from[c] * w->channels + c] += dy[c];
  }
}

void nibble_channels_scale(const float *x, size_t rows, size_t channels, const float *scale, const float *shift, int positive, float *out) {
  for (size_t row = 0; row < rows; row++, x += channels, out += channels) {
    for (size_t c = 0; c < channels; c++) out[c] = x[c] * scale[c] + shift[c];
    // NaN stays.
    if (positive) for (size_t c = 0; c < channels; c++) out[c] = out[c] < 0 ? 0 : out[c];
  }
}

void nibble_channels_moments(const float *x, size_t rows, size_t channels, double *sums) {
  for (size_t row = 0; row < rows; row++, x += channels) {
    for (size_t c = 0; c < channels; c++) sums[c] += x[c];
    for (size_t c = 0; c < channels; c++) sums[channels + c] += (double)x[c] * x[c];
  }
}

void nibble_channels_moments_back(const float *dy, const float *x, size_t rows, size_t channels, const float *mean, const float *inverse,
                                  double *sums) {
  for (size_t row = 0; row < rows; row++, x += channels, dy += channels) {
    for (size_t c = 0; c < channels; c++) sums[c] += dy[c];
    for (size_t c = 0; c < channels; c++) sums[channels + c] += (double)dy[c] * ((x[c] - mean[c]) * inverse[c]);
  }
}

void nibble_channels_combine(const float *dy, const float *x, size_t rows, size_t channels, const float *a, const float *b, const float *c,
                             float *out) {
  for (size_t row = 0; row < rows; row++, x += channels, dy += channels, out += channels) {
    for (size_t k = 0; k < channels; k++) out[k] = a[k] * dy[k] + b[k] * x[k] + c[k];
  }
}
