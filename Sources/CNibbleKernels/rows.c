// One signed byte an element and one scale a row, as bitsandbytes' LLM.int8 stores weights.

#include "numbers_loops.h"

#pragma STDC FP_CONTRACT OFF

float nibble_row_absmax(const float *x, size_t count) {
  float most[8] = {0};
  size_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; lane++) {
      float magnitude = __builtin_fabsf(x[i + lane]);
      // NaN stays: a row that holds one has no scale.
      most[lane] = magnitude <= most[lane] || most[lane] != most[lane] ? most[lane] : magnitude;
    }
  for (; i < count; i++) {
    float magnitude = __builtin_fabsf(x[i]);
    most[0] = magnitude <= most[0] || most[0] != most[0] ? most[0] : magnitude;
  }
  for (int lane = 1; lane < 8; lane++) most[0] = most[lane] <= most[0] || most[0] != most[0] ? most[0] : most[lane];
  return most[0];
}

void nibble_row_encode(const float *x, size_t count, float scale, int8_t *codes) {
  // Two roundings: 127 divided by a tensor is its reciprocal times 127 to PyTorch.
  const float inverse = 1.0f / scale * 127.0f;
  if (!(scale > 0) || !(scale < __builtin_inff()) || !(inverse < __builtin_inff())) {
    memset(codes, 0, count);
    return;
  }
  // Adding and taking away one and a half times 2²³ rounds to the nearest whole number, ties to even.
  const float round = 12582912.0f;
  for (size_t i = 0; i < count; i++) codes[i] = (int8_t)(int32_t)((x[i] * inverse + round) - round);
}

void nibble_row_decode(const int8_t *codes, size_t count, float scale, float *out) {
  nibble_scale_bytes_loop(codes, count, scale, nibble_f32, out);
}
