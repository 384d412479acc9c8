// The portable decoder, and the portable variant's table of kernels.

#include "decode.h"
#include "portable.h"
#include "numbers_loops.h"
#include "sums_loops.h"

#pragma STDC FP_CONTRACT OFF

void nibble_decode_portable(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                            const float *absmax, nibble_number number, void *out) {
  size_t size = nibble_number_size(number);
  for (size_t first = 0, b = 0; first < count; first += block, b++) {
    size_t n = count - first < block ? count - first : block;
    const uint8_t *from = codes + first / 2;
    char *to = (char *)out + first * size;
    nibble_table table;
    for (int c = 0; c < 16; c++) {
      float value = nibble_load_f32(codebook, c) * nibble_load_f32(absmax, b);
      if (number == nibble_f32) table.f32[c] = value;
      else table.u16[c] = number == nibble_f16 ? nibble_to_f16(value) : nibble_to_bf16(value);
    }
    if (number == nibble_f32) nibble_decode_rest32(table.f32, from, 0, n, to);
    else nibble_decode_rest16(table.u16, from, 0, n, to);
  }
}

static void widen_portable(nibble_number number, const void *x, size_t count, float *out) {
  nibble_widen_loop(number, x, count, out);
}

static void narrow_portable(nibble_number number, const float *x, size_t count, void *out) {
  nibble_narrow_loop(number, x, count, out);
}

static void scale_bytes_portable(const int8_t *codes, size_t count, float scale, nibble_number number, void *out) {
  nibble_scale_bytes_loop(codes, count, scale, number, out);
}

static void difference_portable(const float *a, const float *b, size_t count, nibble_difference_sums *sums) {
  nibble_difference_loop(a, b, count, sums);
}

static void scan_portable(const float *x, size_t count, nibble_scan_sums *sums) {
  nibble_scan_loop(x, count, sums);
}

static uint64_t count_nonfinite_portable(nibble_number number, const void *x, size_t count) {
  return nibble_nonfinite_loop(number, x, count);
}

const nibble_kernels nibble_portable_kernels = {
    .variant = nibble_portable,
    .max_bits = nibble_max_bits_portable,
    .encode = nibble_encode_portable,
    .decode = nibble_decode_portable,
    .widen = widen_portable,
    .narrow = narrow_portable,
    .scale_bytes = scale_bytes_portable,
    .difference = difference_portable,
    .scan = scan_portable,
    .count_nonfinite = count_nonfinite_portable,
    .search = nibble_search_portable,
};
