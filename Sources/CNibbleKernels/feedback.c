// Codes by error feedback (GPTQ, arXiv:2210.17323): one group of columns of a weight, vectorised over rows.

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { lanes = 16 };

/// Codes, rounding errors over the factor's diagonal, for one column of `lanes` rows.
static inline void choose(const nibble_feedback *plan, const float *t, const float *scale, float inverse, uint8_t *codes,
                          float *errors) {
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
    errors[lane] = (t[lane] - scale[lane] * value[lane]) * inverse;
  }
}

void nibble_feed_back(const nibble_feedback *plan, const float *factor, size_t stride, size_t columns, size_t rows, float *t,
                      const float *scales, uint8_t *codes, float *errors) {
  for (size_t j = 0; j < columns; j++) {
    const float *line = factor + j * stride;
    const float inverse = 1 / line[j];
    float *error = errors + j * rows;
    for (size_t row = 0; row < rows; row += lanes)
      choose(plan, t + j * rows + row, scales + j * rows + row, inverse, codes + j * rows + row, error + row);
    for (size_t later = j + 1; later < columns; later++) {
      const float weight = line[later];
      float *to = t + later * rows;
      for (size_t row = 0; row < rows; row++) to[row] -= weight * error[row];
    }
  }
}
