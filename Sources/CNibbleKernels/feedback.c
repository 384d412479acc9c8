// Codes by error feedback (GPTQ, arXiv:2210.17323): one group of columns of a weight, vectorised over rows.

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { lanes = 16 };

/// The nearest values to t over their scales, times these, and their codes, for one column of `lanes` rows.
static inline void choose(const nibble_feedback *plan, const float *t, const float *scale, uint8_t *codes, float *values) {
  float x[lanes], value[lanes];
  int32_t number[lanes];
  for (int lane = 0; lane < lanes; lane++) {
    // A block whose scale is zero decodes to zeros, whatever its codes.
    x[lane] = scale[lane] == 0 ? 0 : t[lane] / scale[lane];
    value[lane] = plan->codebook[0];
    number[lane] = 0;
  }
  for (int k = 0; k < 15; k++) {
    const float threshold = plan->thresholds[k], next = plan->codebook[k + 1];
    for (int lane = 0; lane < lanes; lane++) {
      value[lane] = x[lane] > threshold ? next : value[lane];
      number[lane] += x[lane] > threshold;
    }
  }
  for (int lane = 0; lane < lanes; lane++) {
    codes[lane] = plan->numbers[number[lane]];
    values[lane] = scale[lane] * value[lane];
  }
}

void nibble_feed_back(const nibble_feedback *plan, const float *factor, size_t stride, size_t columns, size_t rows, float *t,
                      const float *scales, uint8_t *codes, float *errors) {
  for (size_t j = 0; j < columns; j++) {
    const float *line = factor + j * stride;
    const float inverse = 1 / line[j];
    float *error = errors + j * rows;
    for (size_t row = 0; row < rows; row += lanes) {
      const float *own = t + j * rows + row;
      float values[lanes];
      choose(plan, own, scales + j * rows + row, codes + j * rows + row, values);
      for (int lane = 0; lane < lanes; lane++) error[row + lane] = (own[lane] - values[lane]) * inverse;
    }
    for (size_t later = j + 1; later < columns; later++) {
      const float weight = line[later];
      float *to = t + later * rows;
      for (size_t row = 0; row < rows; row++) to[row] -= weight * error[row];
    }
  }
}

void nibble_descend(const nibble_feedback *plan, const float *hessian, size_t stride, size_t columns, size_t rows, float *gradient,
                    const float *scales, float *values, uint8_t *codes, float *steps) {
  for (size_t j = 0; j < columns; j++) {
    const float *line = hessian + j * stride;
    const float inverse = 1 / line[j];
    float *step = steps + j * rows;
    for (size_t row = 0; row < rows; row += lanes) {
      const size_t at = j * rows + row;
      float wanted[lanes], nearest[lanes];
      for (int lane = 0; lane < lanes; lane++) wanted[lane] = values[at + lane] + gradient[at + lane] * inverse;
      choose(plan, wanted, scales + at, codes + at, nearest);
      for (int lane = 0; lane < lanes; lane++) {
        step[row + lane] = nearest[lane] - values[at + lane];
        values[at + lane] = nearest[lane];
      }
    }
    for (size_t other = 0; other < columns; other++) {
      const float weight = line[other];
      float *to = gradient + other * rows;
      for (size_t row = 0; row < rows; row++) to[row] -= weight * step[row];
    }
  }
}

void nibble_scale_sums(const float *units, const float *hessian, size_t stride, size_t columns, size_t rows, const float *gradient,
                       float *slopes, float *curvatures) {
  for (size_t row = 0; row < rows; row += lanes) {
    float slope[lanes] = {0}, curvature[lanes] = {0};
    for (size_t i = 0; i < columns; i++) {
      float inner[lanes] = {0};
      const float *line = hessian + i * stride;
      for (size_t k = 0; k < columns; k++) {
        const float *unit = units + k * rows + row;
        for (int lane = 0; lane < lanes; lane++) inner[lane] += line[k] * unit[lane];
      }
      const float *unit = units + i * rows + row, *own = gradient + i * rows + row;
      for (int lane = 0; lane < lanes; lane++) {
        slope[lane] += unit[lane] * own[lane];
        curvature[lane] += unit[lane] * inner[lane];
      }
    }
    for (int lane = 0; lane < lanes; lane++) {
      slopes[row + lane] = slope[lane];
      curvatures[row + lane] = curvature[lane];
    }
  }
}
