// What merging does to weights: products of two thin factors, and how much of a change was kept.

#ifndef NIBBLE_CHANGE_LOOPS_H
#define NIBBLE_CHANGE_LOOPS_H

#include "lanes.h"
#include "layers.h"

// Rows of the left factor and registers of columns whose sums are kept at once.
enum { change_rows = 4, change_wide = NIBBLE_LANES == 16 ? 4 : 2 };

/// Every variant rounds alike: one fused multiply-add a rank, in the order of the ranks.
#define LANES_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

/// `n` of the `wide` registers' lanes count in the last register; the others are whole.
LANES_INLINE void low_rank_tile(const int rows, const int wide, size_t n, const float *left, size_t left_stride,
                                const float *right, size_t right_stride, size_t rank, float *out, size_t out_stride) {
  lanes sums[change_rows][change_wide];
  const int last = wide - 1;
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int c = 0; c < wide; c++) sums[r][c] = (lanes){};
  for (size_t k = 0; k < rank; k++) {
    lanes v[change_wide];
#pragma clang loop unroll(full)
    for (int c = 0; c < wide; c++) {
      const float *from = right + k * right_stride + (size_t)c * NIBBLE_LANES;
      v[c] = c == last && n < NIBBLE_LANES ? lanes_load_part(from, n) : lanes_load(from);
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
      lanes factor = lanes_all(left[(size_t)r * left_stride + k]);
#pragma clang loop unroll(full)
      for (int c = 0; c < wide; c++) sums[r][c] = LANES_FMA(factor, v[c], sums[r][c]);
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int c = 0; c < wide; c++) {
      float *to = out + (size_t)r * out_stride + (size_t)c * NIBBLE_LANES;
      if (c == last && n < NIBBLE_LANES) lanes_store_part(to, sums[r][c], n);
      else lanes_store(to, sums[r][c]);
    }
}

LANES_STATIC void low_rank(const float *left, size_t left_stride, size_t rows, const float *right, size_t right_stride,
                           size_t columns, size_t rank, float *out, size_t out_stride) {
  const size_t step = change_wide * NIBBLE_LANES;
  for (size_t j = 0; j < columns;) {
    size_t left_over = columns - j;
    int wide = left_over >= step ? change_wide : 1;
    size_t n = wide > 1 || left_over > NIBBLE_LANES ? NIBBLE_LANES : left_over;
    for (size_t i = 0; i < rows;) {
      const float *a = left + i * left_stride;
      float *to = out + i * out_stride + j;
#define TILE(rows, wide) low_rank_tile(rows, wide, n, a, left_stride, right + j, right_stride, rank, to, out_stride)
      if (rows - i >= change_rows) {
        if (wide > 1) TILE(change_rows, change_wide);
        else TILE(change_rows, 1);
        i += change_rows;
      } else {
        if (wide > 1) TILE(1, change_wide);
        else TILE(1, 1);
        i++;
      }
#undef TILE
    }
    j += wide > 1 ? step : n;
  }
}

LANES_STATIC void change_sums(const float *base, const float *written, const float *delta, size_t n, double *sums) {
  lanes_d total[4] = {};
  for (size_t start = 0; start < n; start += 1024) {
    size_t end = n - start < 1024 ? n : start + 1024;
    lanes part[4] = {};
    for (size_t i = start; i < end; i += NIBBLE_LANES) {
      size_t m = end - i < NIBBLE_LANES ? end - i : NIBBLE_LANES;
      lanes w = m < NIBBLE_LANES ? lanes_load_part(base + i, m) : lanes_load(base + i);
      lanes v = m < NIBBLE_LANES ? lanes_load_part(written + i, m) : lanes_load(written + i);
      lanes d = m < NIBBLE_LANES ? lanes_load_part(delta + i, m) : lanes_load(delta + i);
      lanes moved = v - w, noise = moved - d;
      part[0] += moved * d;
      part[1] += d * d;
      part[2] += w * w;
      part[3] += noise * noise;
    }
    for (int s = 0; s < 4; s++) total[s] += __builtin_convertvector(part[s], lanes_d);
  }
  for (int s = 0; s < 4; s++) sums[s] += lanes_sum_d(&total[s]);
}

/// Rows go by lanes, so that the error carried by each stays in its lane.
LANES_INLINE void shape_group(const nibble_shaping *plan, const float *t, size_t element, size_t rows, uint8_t *codes,
                              float *values, float *carries, lanes *carry) {
  const size_t columns = plan->columns, rank = plan->rank;
  for (size_t k = 0; k < rank; k++) carry[k] = (lanes){};
  for (size_t j = 0; j < columns; j++) {
    const float *gain = plan->gains + j * rank, *basis = plan->basis + j * rank;
    lanes want = {}, scale = {}, shift[4] = {};
    for (size_t l = 0; l < rows; l++) {
      want[l] = t[l * columns + j];
      scale[l] = plan->scales[(element + l * columns + j) / plan->block];
    }
    for (size_t k = 0; k < rank; k++) shift[k % 4] = LANES_FMA(carry[k], lanes_all(gain[k]), shift[k % 4]);
    lanes x = (want + ((shift[0] + shift[1]) + (shift[2] + shift[3]))) / scale;
    lanes_i code = {};
    for (int k = 0; k < 15; k++) code -= x > plan->thresholds[k];
    lanes value = {};
    for (size_t l = 0; l < rows; l++) {
      int index = scale[l] == 0 ? plan->zero : code[l];
      codes[l * columns + j] = plan->numbers[index];
      value[l] = plan->codebook[index];
    }
    value *= scale;
    for (size_t l = 0; l < rows; l++) values[l * columns + j] = value[l];
    lanes error = want - value;
    for (size_t k = 0; k < rank; k++) carry[k] = LANES_FMA(error, lanes_all(basis[k]), carry[k]);
  }
  for (size_t l = 0; l < rows; l++)
    for (size_t k = 0; k < rank; k++) carries[l * rank + k] = carry[k][l];
}

LANES_STATIC void shape(const nibble_shaping *plan, const float *t, size_t element, size_t rows, uint8_t *codes, float *values,
                        float *carries, void *scratch) {
  for (size_t i = 0; i < rows; i += NIBBLE_LANES) {
    size_t n = rows - i < NIBBLE_LANES ? rows - i : NIBBLE_LANES, at = i * plan->columns;
    if (n == NIBBLE_LANES)
      shape_group(plan, t + at, element + at, NIBBLE_LANES, codes + at, values + at, carries + i * plan->rank, scratch);
    else shape_group(plan, t + at, element + at, n, codes + at, values + at, carries + i * plan->rank, scratch);
  }
}

#endif
