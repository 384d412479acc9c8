// Windows over images.

#include "CNibbleWindows.h"


/// The row of channels under tap (i, j) of the window at (line, place); NULL beyond the edges.
static const float *under(const nibble_windows *w, const float *x, size_t line, size_t place, size_t i, size_t j) {
  size_t y = line * w->stride + i, across = place * w->stride + j;
  if (y < w->padding || across < w->padding) return NULL;
  y -= w->padding, across -= w->padding;
  return y < w->height && across < w->width ? x + (y * w->width + across) * w->channels : NULL;
}

// Almost every convolution has windows of nine taps: rows of nine numbers a channel, four channels at a time by way of transposes.

typedef float four __attribute__((vector_size(16)));

static inline four load(const float *x) {
  four v;
  __builtin_memcpy(&v, x, sizeof v);
  return v;
}

static inline void store(float *x, four v) { __builtin_memcpy(x, &v, sizeof v); }

static inline void transpose(four v[4]) {
  four a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
  four c = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
  v[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5), v[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  v[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5), v[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

/// The rows of channels under the nine taps of a window; NULL beyond the edges.
static void rows_under(const nibble_windows *w, const float *x, size_t line, size_t place, const float *rows[9]) {
  for (size_t t = 0; t < 9; t++) rows[t] = under(w, x, line, place, t / 3, t % 3);
}

static void take_nine(const float *const rows[9], size_t channels, float *out) {
  static const float nothing[4] = {0};
  const float *from[9];
  size_t step[9];
  for (size_t t = 0; t < 9; t++) from[t] = rows[t] ? rows[t] : nothing, step[t] = rows[t] != NULL;
  size_t c = 0;
  for (; c + 4 <= channels; c += 4, out += 36) {
    four v[8];
    for (size_t t = 0; t < 8; t++) v[t] = load(from[t] + c * step[t]);
    four last = load(from[8] + c * step[8]);
    transpose(v), transpose(v + 4);
    for (size_t k = 0; k < 4; k++) {
      store(out + 9 * k, v[k]), store(out + 9 * k + 4, v[4 + k]);
      out[9 * k + 8] = last[k];
    }
  }
  for (; c < channels; c++, out += 9) {
    for (size_t t = 0; t < 9; t++) out[t] = rows[t] ? rows[t][c] : 0;
  }
}

static void give_nine(float *const rows[9], size_t channels, const float *taken) {
  size_t c = 0;
  for (; c + 4 <= channels; c += 4, taken += 36) {
    four v[9];
    for (size_t k = 0; k < 4; k++) v[k] = load(taken + 9 * k), v[4 + k] = load(taken + 9 * k + 4);
    transpose(v), transpose(v + 4);
    v[8] = (four){taken[8], taken[17], taken[26], taken[35]};
    for (size_t t = 0; t < 9; t++) {
      if (rows[t]) store(rows[t] + c, load(rows[t] + c) + v[t]);
    }
  }
  for (; c < channels; c++, taken += 9) {
    for (size_t t = 0; t < 9; t++) {
      if (rows[t]) rows[t][c] += taken[t];
    }
  }
}

void nibble_windows_take(const nibble_windows *w, const float *x, size_t first, size_t end, float *out) {
  size_t taps = w->window_height * w->window_width;
  int nine = w->window_height == 3 && w->window_width == 3;
  for (size_t line = first; line < end; line++) {
    for (size_t place = 0; place < w->out_width; place++, out += taps * w->channels) {
      if (nine) {
        const float *rows[9];
        rows_under(w, x, line, place, rows);
        take_nine(rows, w->channels, out);
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
  int nine = w->window_height == 3 && w->window_width == 3;
  for (size_t line = 0; line < w->out_height; line++) {
    for (size_t place = 0; place < w->out_width; place++, taken += taps * w->channels) {
      if (nine) {
        const float *rows[9];
        rows_under(w, x, line, place, rows);
        give_nine((float *const *)rows, w->channels, taken);
        continue;
      }
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
