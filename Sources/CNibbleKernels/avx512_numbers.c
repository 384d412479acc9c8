// The shared loops compiled for AVX-512, f16 by its own instructions, and this variant's table of kernels.

#if defined(__x86_64__)

#include "avx512.h"
#include "numbers_loops.h"
#include "sums_loops.h"

#pragma STDC FP_CONTRACT OFF

AVX512 static void widen_avx512(nibble_number number, const void *x, size_t count, float *out) {
  size_t i = 0;
  if (number != nibble_f16) {
    nibble_widen_loop(number, x, count, out);
    return;
  }
  for (; i + 16 <= count; i += 16)
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)((const char *)x + 2 * i))));
  for (; i < count; i++) nibble_store_f32(out, i, nibble_from_f16(nibble_load16(x, i)));
}

AVX512 static void narrow_avx512(nibble_number number, const float *x, size_t count, void *out) {
  size_t i = 0;
  if (number != nibble_f16) {
    nibble_narrow_loop(number, x, count, out);
    return;
  }
  for (; i + 16 <= count; i += 16)
    _mm256_storeu_si256((void *)((char *)out + 2 * i),
                        _mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; i++) nibble_store16(out, i, nibble_to_f16(nibble_load_f32(x, i)));
}

AVX512 static void scale_bytes_avx512(const int8_t *codes, size_t count, float scale, nibble_number number, void *out) {
  nibble_scale_bytes_loop(codes, count, scale, number, out);
}

AVX512 static void difference_avx512(const float *a, const float *b, size_t count,
                                     nibble_difference_sums *sums) {
  nibble_difference_loop(a, b, count, sums);
}

AVX512 static void scan_avx512(const float *x, size_t count, nibble_scan_sums *sums) {
  nibble_scan_loop(x, count, sums);
}

AVX512 static uint64_t count_nonfinite_avx512(nibble_number number, const void *x, size_t count) {
  return nibble_nonfinite_loop(number, x, count);
}

const nibble_kernels nibble_avx512_kernels = {
    .variant = nibble_avx512,
    .max_bits = nibble_max_bits_avx512,
    .encode = nibble_encode_avx512,
    .decode = nibble_decode_avx512,
    .widen = widen_avx512,
    .narrow = narrow_avx512,
    .scale_bytes = scale_bytes_avx512,
    .difference = difference_avx512,
    .scan = scan_avx512,
    .count_nonfinite = count_nonfinite_avx512,
    .search = nibble_search_avx512,
};

#endif
