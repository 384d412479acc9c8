// Products in plain C, the definition of the others: each output is a sum of products in 16 lanes.

#include "products.h"

#pragma STDC FP_CONTRACT OFF

enum { lanes = 16, columns_at_once = 256 };

static size_t padded(size_t k) { return (k + lanes - 1) / lanes * lanes; }

size_t nibble_portable_packed_bytes(size_t m, size_t k) { return 4 * m * padded(k); }

static void round_all(float *x, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] = nibble_from_bf16(nibble_to_bf16(x[i]));
}

void nibble_portable_pack(nibble_compute compute, const float *x, size_t m, size_t k, size_t stride, void *packed) {
  float *out = packed;
  for (size_t i = 0; i < m; i++, out += padded(k)) {
    memcpy(out, x + i * stride, 4 * k);
    memset(out + k, 0, 4 * (padded(k) - k));
    if (compute == nibble_compute_bf16) round_all(out, k);
  }
}

/// One row of W; or a piece of one, and sums beside it.
size_t nibble_portable_scratch(const nibble_matrix *w, size_t m) {
  return 4 * (padded(w->columns) + (m + 1) * columns_at_once);
}

static void row(nibble_compute compute, const nibble_matrix *w, size_t j, size_t first, size_t n, float *out) {
  nibble_matrix_run(&nibble_portable_kernels, w, j * w->columns + first, n, nibble_f32, out);
  if (compute == nibble_compute_bf16) round_all(out, n);
}

static float dot(const float *x, const float *w, size_t n) {
  float sums[lanes] = {0}, sum = 0;
  for (size_t i = 0; i < n; i += lanes)
    for (int l = 0; l < lanes; l++) sums[l] += x[i + (size_t)l] * w[i + (size_t)l];
  for (int l = 0; l < lanes; l++) sum += sums[l];
  return sum;
}

void nibble_portable_multiply(nibble_compute compute, const nibble_matrix *w, const void *packed, size_t m, size_t first,
                              size_t count, int add, float *y, size_t stride, void *scratch) {
  float *weights = scratch;
  size_t k = padded(w->columns);
  memset(weights + w->columns, 0, 4 * (k - w->columns));
  for (size_t j = first; j < first + count; j++) {
    row(compute, w, j, 0, w->columns, weights);
    for (size_t i = 0; i < m; i++) {
      float sum = dot((const float *)packed + i * k, weights, k);
      y[i * stride + j] = add ? y[i * stride + j] + sum : sum;
    }
  }
}

void nibble_portable_multiply_transposed(nibble_compute compute, const nibble_matrix *w, const void *packed, size_t m,
                                         size_t first, size_t count, int add, float *dx, size_t stride, void *scratch) {
  float *weights = scratch, *sums = weights + columns_at_once;
  size_t k = padded(w->rows);
  // Narrow pieces, so that the sums of all rows of x stay in cache.
  for (size_t c = first; c < first + count; c += columns_at_once) {
    size_t n = first + count - c < columns_at_once ? first + count - c : columns_at_once;
    memset(sums, 0, 4 * m * columns_at_once);
    for (size_t j = 0; j < w->rows; j++) {
      row(compute, w, j, c, n, weights);
      for (size_t i = 0; i < m; i++) {
        float factor = ((const float *)packed)[i * k + j], *out = sums + i * columns_at_once;
        for (size_t l = 0; l < n; l++) out[l] += factor * weights[l];
      }
    }
    for (size_t i = 0; i < m; i++) {
      float *out = dx + i * stride + c;
      for (size_t l = 0; l < n; l++) out[l] = add ? out[l] + sums[i * columns_at_once + l] : sums[i * columns_at_once + l];
    }
  }
}
