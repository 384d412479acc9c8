// The public entries that only choose a variant. Detection is a few loads, cheap beside any call here.

#include "internal.h"

const nibble_kernels *nibble_kernels_of(nibble_variant variant) {
  if (!nibble_variant_runs(variant)) return &nibble_portable_kernels;
  switch (variant) {
#if defined(__x86_64__)
    case nibble_avx2: return &nibble_avx2_kernels;
    case nibble_avx512bf16:
    case nibble_avx512: return &nibble_avx512_kernels;
#elif defined(__aarch64__)
    case nibble_neon: return &nibble_neon_kernels;
#endif
    default: return &nibble_portable_kernels;
  }
}

void nibble_decode(nibble_variant variant, const float codebook[16], const uint8_t *codes, size_t count,
                   size_t block, const float *absmax, nibble_number number, void *out) {
  nibble_kernels_of(variant)->decode(codebook, codes, count, block, absmax, number, out);
}

void nibble_widen(nibble_variant variant, nibble_number number, const void *x, size_t count, float *out) {
  nibble_kernels_of(variant)->widen(number, x, count, out);
}

void nibble_narrow(nibble_variant variant, nibble_number number, const float *x, size_t count, void *out) {
  nibble_kernels_of(variant)->narrow(number, x, count, out);
}

void nibble_difference(nibble_variant variant, const float *a, const float *b, size_t count,
                       nibble_difference_sums *sums) {
  nibble_kernels_of(variant)->difference(a, b, count, sums);
}

void nibble_scan(nibble_variant variant, const float *x, size_t count, nibble_scan_sums *sums) {
  nibble_kernels_of(variant)->scan(x, count, sums);
}

uint64_t nibble_count_nonfinite(nibble_variant variant, nibble_number number, const void *x, size_t count) {
  return nibble_kernels_of(variant)->count_nonfinite(number, x, count);
}
