// The shared loops compiled for AVX2, f16 by its own instructions, and this variant's table of kernels.

#if defined(__x86_64__)

#include "avx2.h"
#include "numbers_loops.h"
#include "sums_loops.h"

#pragma STDC FP_CONTRACT OFF

AVX2 static void widen_avx2(nibble_number number, const void *x, size_t count, float *out) {
  size_t i = 0;
  if (number != nibble_f16) {
    nibble_widen_loop(number, x, count, out);
    return;
  }
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)((const char *)x + 2 * i))));
  for (; i < count; i++) nibble_store_f32(out, i, nibble_from_f16(nibble_load16(x, i)));
}

AVX2 static void narrow_avx2(nibble_number number, const float *x, size_t count, void *out) {
  size_t i = 0;
  if (number != nibble_f16) {
    nibble_narrow_loop(number, x, count, out);
    return;
  }
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128((void *)((char *)out + 2 * i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; i++) nibble_store16(out, i, nibble_to_f16(nibble_load_f32(x, i)));
}

AVX2 static void scale_bytes_avx2(const int8_t *codes, size_t count, float scale, nibble_number number, void *out) {
  nibble_scale_bytes_loop(codes, count, scale, number, out);
}

AVX2 static void difference_avx2(const float *a, const float *b, size_t count,
                                     nibble_difference_sums *sums) {
  nibble_difference_loop(a, b, count, sums);
}

AVX2 static void scan_avx2(const float *x, size_t count, nibble_scan_sums *sums) {
  nibble_scan_loop(x, count, sums);
}

AVX2 static uint64_t count_nonfinite_avx2(nibble_number number, const void *x, size_t count) {
  return nibble_nonfinite_loop(number, x, count);
}

const nibble_kernels nibble_avx2_kernels = {
    .variant = nibble_avx2,
    .max_bits = nibble_max_bits_avx2,
    .encode = nibble_encode_avx2,
    .decode = nibble_decode_avx2,
    .widen = widen_avx2,
    .narrow = narrow_avx2,
    .scale_bytes = scale_bytes_avx2,
    .difference = difference_avx2,
    .scan = scan_avx2,
    .count_nonfinite = count_nonfinite_avx2,
    .search = nibble_search_avx2,
};

#endif
