// Attention of a few queries over many keys, written once over lanes.h.
//
// Keys and values are what does not fit into the nearest cache, so each is loaded from afar once: a stretch of a few keys
// is scored for all queries while it is near, and so are the values weighed. Within a stretch, four keys and a few queries
// (or a few queries and four vectors of columns) keep their sums in registers.

#ifndef NIBBLE_ATTEND_LOOPS_H
#define NIBBLE_ATTEND_LOOPS_H

#include "backward_loops.h"
#include "change_loops.h"
#include "channels_loops.h"
#include "convolution_loops.h"
#include "layers_loops.h"

/// Queries whose sums fit into the registers together with four keys.
#if NIBBLE_LANES == 16 || defined(__aarch64__)
enum { attend_queries = 4 };  // of 32 registers
#else
enum { attend_queries = 2 };  // of 16
#endif

/// Keys of a stretch, and how many rows to fetch ahead and how many floats at least: some kilobytes cover memory's delay.
enum { attend_stretch = 16, attend_ahead_rows = 32, attend_ahead_floats = 2048 };

/// What to fetch early: processors follow rows by themselves only within a page.
typedef struct {
  size_t distance;  ///< floats from a row to the one to fetch; 0 for nothing
  int near;         ///< whether there is room for them in the nearest cache: rows far apart share a few of its places
} attend_ahead;

NIBBLE_INLINE attend_ahead attend_ahead_of(size_t d, size_t kv_stride) {
  if (kv_stride <= 2 * d) return (attend_ahead){(attend_ahead_floats + d - 1) / d * kv_stride, 1};
  return (attend_ahead){attend_ahead_rows * kv_stride, 0};
}

/// It may lie past the end, where fetching does nothing.
NIBBLE_INLINE void attend_fetch(const float *p, attend_ahead ahead, size_t floats) {
  if (!ahead.distance) return;
  uintptr_t from = (uintptr_t)p + 4 * ahead.distance;
  if (ahead.near)
    for (size_t i = 0; i < floats; i += 16) __builtin_prefetch((const void *)(from + 4 * i), 0, 3);
  else
    for (size_t i = 0; i < floats; i += 16) __builtin_prefetch((const void *)(from + 4 * i), 0, 2);
}

/// scores[g * t + i] = q[g] . k[i] for a constant number of queries and `count` keys. Past the last key the last is taken
/// again, so that every key's score is summed in the same order.
LANES_INLINE void scores_of(int queries, const float *q, size_t q_stride, const float *k, size_t count, size_t kv_stride,
                            size_t d, attend_ahead ahead, float *scores, size_t t) {
  for (size_t i = 0; i < count; i += 4) {
    const float *rows[4];
    for (size_t j = 0; j < 4; j++) rows[j] = k + (i + j < count ? i + j : count - 1) * kv_stride;
    for (size_t j = 0; j < 4; j++) attend_fetch(rows[j], ahead, d);
    lanes sums[attend_queries][4] = {};
    size_t c = 0;
    for (; c + NIBBLE_LANES <= d; c += NIBBLE_LANES) {
      lanes keys[4];
      for (int j = 0; j < 4; j++) keys[j] = lanes_load(rows[j] + c);
      for (int g = 0; g < queries; g++) {
        lanes query = lanes_load(q + (size_t)g * q_stride + c);
        for (int j = 0; j < 4; j++) sums[g][j] += query * keys[j];
      }
    }
    if (c < d) {
      lanes keys[4];
      for (int j = 0; j < 4; j++) keys[j] = lanes_load_part(rows[j] + c, d - c);
      for (int g = 0; g < queries; g++) {
        lanes query = lanes_load_part(q + (size_t)g * q_stride + c, d - c);
        for (int j = 0; j < 4; j++) sums[g][j] += query * keys[j];
      }
    }
    for (int g = 0; g < queries; g++) {
      lanes_four four = lanes_sum_four(sums[g]);
      float *to = scores + (size_t)g * t + i;
      if (count - i >= 4) memcpy(to, &four, sizeof four);
      else
        for (size_t j = 0; j < count - i; j++) to[j] = four[j];
    }
  }
}

/// out[g][column...] += sum of weights[g * t + i] * v[i][column...], for constant numbers of queries and vectors; the last
/// vector has `part` lanes if that is not 0.
LANES_INLINE void weigh(int queries, int vectors, size_t part, const float *weights, size_t t, const float *v, size_t count,
                        size_t kv_stride, attend_ahead ahead, const uint8_t *mask, float *out, size_t out_stride) {
  lanes sums[attend_queries][4];
  for (int g = 0; g < queries; g++)
    for (int j = 0; j < vectors; j++) {
      const float *from = out + (size_t)g * out_stride + j * NIBBLE_LANES;
      sums[g][j] = part ? lanes_load_part(from, part) : lanes_load(from);
    }
  for (size_t i = 0; i < count; i++) {
    if (mask && !mask[i]) continue;
    attend_fetch(v + i * kv_stride, ahead, (size_t)vectors * NIBBLE_LANES);
    lanes values[4];
    for (int j = 0; j < vectors; j++) {
      const float *from = v + i * kv_stride + j * NIBBLE_LANES;
      values[j] = part ? lanes_load_part(from, part) : lanes_load(from);
    }
    for (int g = 0; g < queries; g++) {
      lanes weight = lanes_all(weights[(size_t)g * t + i]);
      for (int j = 0; j < vectors; j++) sums[g][j] += weight * values[j];
    }
  }
  for (int g = 0; g < queries; g++)
    for (int j = 0; j < vectors; j++) {
      float *to = out + (size_t)g * out_stride + j * NIBBLE_LANES;
      if (part) lanes_store_part(to, sums[g][j], part);
      else lanes_store(to, sums[g][j]);
    }
}

LANES_INLINE void weigh_all(int queries, const float *weights, size_t t, const float *v, size_t count, size_t kv_stride,
                            size_t d, attend_ahead ahead, const uint8_t *mask, float *out, size_t out_stride) {
  size_t c = 0;
  for (; c + 4 * NIBBLE_LANES <= d; c += 4 * NIBBLE_LANES)
    weigh(queries, 4, 0, weights, t, v + c, count, kv_stride, ahead, mask, out + c, out_stride);
  for (; c + 2 * NIBBLE_LANES <= d; c += 2 * NIBBLE_LANES)
    weigh(queries, 2, 0, weights, t, v + c, count, kv_stride, ahead, mask, out + c, out_stride);
  for (; c + NIBBLE_LANES <= d; c += NIBBLE_LANES)
    weigh(queries, 1, 0, weights, t, v + c, count, kv_stride, ahead, mask, out + c, out_stride);
  if (c < d) weigh(queries, 1, d - c, weights, t, v + c, count, kv_stride, ahead, mask, out + c, out_stride);
}

/// Calls `f` with a constant number of queries.
#define ATTEND_QUERIES(f, queries, ...)     \
  do {                                      \
    switch (queries) {                      \
      case 1: f(1, __VA_ARGS__); break;     \
      case 2: f(2, __VA_ARGS__); break;     \
      case 3: f(3 < attend_queries ? 3 : attend_queries, __VA_ARGS__); break; \
      default: f(attend_queries, __VA_ARGS__); break; \
    }                                       \
  } while (0)

/// cap * tanh(scale * x / cap).
LANES_STATIC void bound(float *x, size_t n, float scale, float cap) {
  float in = scale / cap;
  size_t i = 0;
  for (; i + NIBBLE_LANES <= n; i += NIBBLE_LANES) lanes_store(x + i, lanes_tanh(lanes_load(x + i) * in) * cap);
  if (i < n) lanes_store_part(x + i, lanes_tanh(lanes_load_part(x + i, n - i) * in) * cap, n - i);
}

/// A row of scores becomes weights; with a sink, it has a place behind them.
LANES_STATIC void weights_of(const nibble_answers *answers, size_t query, float *row) {
  size_t t = answers->t;
  float scale = answers->scale;
  if (answers->cap > 0) bound(row, t, scale, answers->cap), scale = 1;
  if (scale != 1 && (answers->bias || answers->sinks)) {
    for (size_t i = 0; i < t; i++) row[i] *= scale;
    scale = 1;
  }
  if (answers->bias) add_scaled(1, answers->bias + query * answers->bias_stride, t, row);
  if (answers->mask)
    for (size_t i = 0; i < t; i++)
      if (!answers->mask[i]) row[i] = -__builtin_inff();
  if (answers->sinks) row[t] = answers->sinks[query];
  softmax(row, answers->sinks ? t + 1 : t, scale);
}

LANES_STATIC void attend(const float *q, size_t queries, size_t q_stride, const nibble_answers *answers, float *out, size_t out_stride,
                         float *scratch) {
  const size_t t = answers->t, k_stride = answers->k_stride, v_stride = answers->v_stride, row = answers->sinks ? t + 1 : t;
  const attend_ahead keys = attend_ahead_of(answers->k_width, k_stride), values = attend_ahead_of(answers->v_width, v_stride);
  const attend_ahead nothing = {0, 0};
  for (size_t start = 0; start < t; start += attend_stretch) {
    size_t count = t - start < attend_stretch ? t - start : attend_stretch;
    for (size_t g = 0; g < queries; g += attend_queries)
      ATTEND_QUERIES(scores_of, queries - g, q + g * q_stride, q_stride, answers->k + start * k_stride, count, k_stride, answers->k_width,
                     g ? nothing : keys, scratch + g * row + start, row);
  }
  for (size_t g = 0; g < queries; g++) {
    weights_of(answers, g, scratch + g * row);
    memset(out + g * out_stride, 0, 4 * answers->v_width);
  }
  for (size_t start = 0; start < t; start += attend_stretch) {
    size_t count = t - start < attend_stretch ? t - start : attend_stretch;
    for (size_t g = 0; g < queries; g += attend_queries)
      ATTEND_QUERIES(weigh_all, queries - g, scratch + g * row + start, row, answers->v + start * v_stride, count, v_stride,
                     answers->v_width, g ? nothing : values, answers->mask ? answers->mask + start : NULL, out + g * out_stride, out_stride);
  }
}

#define NIBBLE_LAYERS_TABLE                                                                                      \
  {                                                                                                              \
    .rms_norm = rms_norm, .layer_norm = layer_norm, .activate = activate, .add_scaled = add_scaled,              \
    .multiply_by = multiply_by, .softmax = softmax, .log_sum_exp = log_sum_exp, .rotate = rotate, .argmax = argmax, \
    .all_finite = all_finite, .attend = attend, .low_rank = low_rank, .change_sums = change_sums, .shape = shape, \
    .activate_back = activate_back, .rms_norm_back = rms_norm_back, .layer_norm_back = layer_norm_back,          \
    .softmax_back = softmax_back, .lanes = NIBBLE_LANES, .convolve = convolve, .convolve_give = convolve_give,   \
    .convolve_gradient = convolve_gradient, .channels_scale = channels_scale, .channels_moments = channels_moments, \
    .channels_moments_back = channels_moments_back, .channels_combine = channels_combine                         \
  }

#endif
