// What the files of this target share.

#ifndef NIBBLE_INTERNAL_H
#define NIBBLE_INTERNAL_H

#include "CNibbleKernels.h"
#include "bits.h"
#include "codebooks.h"

/// The inner loop of an encoder, for ordinary blocks only: every scaled element is finite, and the number of
/// elements is a multiple of 32. `number` is f32, f16 or bf16.
typedef struct {
  nibble_code code;
  nibble_number number;
  int cpu_ties;  ///< FP4: thresholds and ties of the `cpu` rule
  int clamp;     ///< scaled elements may lie outside -1...1
  size_t block;
} nibble_encode_job;

/// One variant. A null entry takes the portable one.
typedef struct {
  nibble_variant variant;
  /// For each block the bits of max|x| as float32, compared as integers: NaN above infinity above the rest.
  void (*max_bits)(nibble_number number, const void *x, size_t blocks, size_t block, uint32_t *bits);
  void (*encode)(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                 uint8_t *codes, float *moments);
  void (*decode)(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                 const float *absmax, nibble_number number, void *out);
  void (*widen)(nibble_number number, const void *x, size_t count, float *out);
  void (*narrow)(nibble_number number, const float *x, size_t count, void *out);
  /// Bytes of a row of W and its scale as `number`, f32 or bf16.
  void (*scale_bytes)(const int8_t *codes, size_t count, float scale, nibble_number number, void *out);
  void (*difference)(const float *a, const float *b, size_t count, nibble_difference_sums *sums);
  void (*scan)(const float *x, size_t count, nibble_scan_sums *sums);
  uint64_t (*count_nonfinite)(nibble_number number, const void *x, size_t count);
  /// The best scale of each block of y, finite elements over their greatest magnitude, bit for bit as search.h has it;
  /// of blocks of zeros any. `block` is a multiple of 32; both signs are searched for NF4 only.
  void (*search)(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales);
} nibble_kernels;

extern const nibble_kernels nibble_portable_kernels;
#if defined(__x86_64__)
extern const nibble_kernels nibble_avx2_kernels;
extern const nibble_kernels nibble_avx512_kernels;
#elif defined(__aarch64__)
extern const nibble_kernels nibble_neon_kernels;
#endif

/// 1 / 127: what a byte of a row and the row's scale are multiplied by.
#define NIBBLE_BYTE_UNIT 7.874015718698502e-3f

/// The kernels of `variant`, or the portable ones where this machine cannot run it.
const nibble_kernels *nibble_kernels_of(nibble_variant variant);

NIBBLE_INLINE size_t nibble_number_size(nibble_number number) {
  switch (number) {
    case nibble_f64: case nibble_u64: case nibble_i64: return 8;
    case nibble_f32: case nibble_u32: case nibble_i32: return 4;
    case nibble_f16: case nibble_bf16: case nibble_u16: case nibble_i16: return 2;
    default: return 1;
  }
}

/// One block by the letter of the rules; `full` is false for a short last block. x is widened.
void nibble_encode_block(nibble_code code, nibble_rules rules, const float *x, size_t count, int full,
                         uint8_t *codes, float *absmax, float *moments, nibble_encode_counts *counts);
/// A full block of zeros, whose absmax is 0 under all rules.
void nibble_encode_zeros(nibble_code code, nibble_rules rules, size_t count, uint8_t *codes, float *moments);
void nibble_encode_block_scaled(nibble_code code, const float *x, size_t count, float scale,
                                uint8_t *codes, float *moments, nibble_encode_counts *counts);

#endif
