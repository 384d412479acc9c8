// The block kernels of nibble: 4-bit encode and decode, scale codes, number formats, error sums.
//
// Every function that turns bits into bits gives the same bytes for every variant; the portable
// variant is the definition and the oracle. Only the `moments` and the sums in `nibble_difference`
// and `nibble_scan` may differ in their last digits between variants.
//
// Nothing here allocates, checks or fails: lengths are the caller's promise. All integers are
// little-endian in memory, all buffers may be unaligned.

#ifndef CNIBBLEKERNELS_H
#define CNIBBLEKERNELS_H

#include <stddef.h>
#include <stdint.h>

/// An implementation of the kernels for one instruction set.
typedef enum {
  nibble_portable = 0,
  nibble_avx2 = 1,    ///< AVX2, FMA, F16C
  nibble_avx512 = 2,  ///< AVX-512 F, BW, VL, DQ
  nibble_neon = 3,    ///< AArch64 NEON
  nibble_avx512bf16 = 4  ///< AVX-512 with the bf16 dot product; all but products and layers as `nibble_avx512`
} nibble_variant;

/// The number formats kernels read and write.
typedef enum {
  nibble_f32 = 0,
  nibble_f16 = 1,
  nibble_bf16 = 2,
  nibble_f64 = 3,      ///< read by rounding once to float32
  nibble_f8_e4m3 = 4,  ///< OCP "FN": no infinities, S.1111.111 is NaN
  nibble_f8_e5m2 = 5,
  nibble_f8_e8m0 = 6,  ///< 2^(x-127), 255 is NaN
  nibble_u8 = 7,
  nibble_i8 = 8,
  nibble_u16 = 9,
  nibble_i16 = 10,
  nibble_u32 = 11,
  nibble_i32 = 12,
  nibble_u64 = 13,
  nibble_i64 = 14
} nibble_number;

typedef enum { nibble_nf4 = 0, nibble_fp4 = 1 } nibble_code;

/// Whose corner cases an encoder follows; ordinary blocks come out alike.
typedef enum {
  nibble_nearest = 0,  ///< `cuda`, except that a block of zeros takes the code of zero
  nibble_cuda = 1,     ///< bitsandbytes' CUDA kernel in IEEE arithmetic
  nibble_cpu = 2       ///< bitsandbytes' CPU kernel since 0.50
} nibble_rules;

/// Whether this machine can run `variant`.
int nibble_variant_runs(nibble_variant variant);

/// Tells the core that this thread waits for another.
static inline void nibble_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// The processor as it names itself; empty and 0 where it has no CPUID.
typedef struct {
  char vendor[13], name[49];
  unsigned family, model;
} nibble_processor;

nibble_processor nibble_this_processor(void);

/// How many products of numbers the bfloat16 dot product makes in the time in which the multiply-add of float32 makes one: the
/// rates of the two instructions on registers, measured in less than a millisecond. 0 where the dot product is missing.
double nibble_dot_product_rate(void);

/// What an encoder met besides ordinary numbers.
typedef struct {
  uint64_t nonfinite;   ///< NaN and infinite elements
  uint64_t zero_blocks; ///< blocks whose elements are all +0 or -0
} nibble_encode_counts;

/// Encodes `count` elements of `x` in blocks of `block` (even); a last block may be short.
///
/// codes   (count + 1) / 2 bytes, first element of a pair in the high nibble
/// absmax  one float a block
/// moments NULL, or three floats a block: with s the scaled element, q the value of its code and
///         e = s - q, the sums of e*e, e*q and q*q (undefined for blocks with non-finite elements)
/// counts  added to, not reset
///
/// `number` is f32, f16, bf16 or f64.
void nibble_encode(nibble_variant variant, nibble_code code, nibble_rules rules, nibble_number number,
                   const void *x, size_t count, size_t block,
                   uint8_t *codes, float *absmax, float *moments, nibble_encode_counts *counts);

/// Encodes to the nearest code under given scales (ties as `nibble_nearest`), for encoders that
/// choose their own, of either sign. A scale of 0 gives the code of zero. `moments` as above, of x / scale.
void nibble_encode_scaled(nibble_variant variant, nibble_code code, nibble_number number,
                          const void *x, size_t count, size_t block, const float *scales,
                          uint8_t *codes, float *moments, nibble_encode_counts *counts);

/// For each block a scale whose nearest codes leave a small squared error: of 16 scales between 1.4 and 0.65 of absmax (with
/// `both_signs`, also of their opposites) the codes that fit best, and the scale that fits these best. Never worse than absmax;
/// the same bits from every variant. `number` as for `nibble_encode`; blocks with non-finite elements keep their absmax.
void nibble_search_scales(nibble_variant variant, nibble_code code, int both_signs, nibble_number number, const void *x,
                          size_t count, size_t block, float *scales, nibble_encode_counts *counts);

/// Decodes: element = codebook[code] * absmax[block] in float32, rounded once (nearest even) into
/// `number`, one of f32, f16, bf16.
void nibble_decode(nibble_variant variant, const float codebook[16], const uint8_t *codes, size_t count,
                   size_t block, const float *absmax, nibble_number number, void *out);

/// The sum of `count` floats in float64, in order.
double nibble_sum(const float *x, size_t count);

/// Tables made once from a 256-entry ascending map, for `nibble_encode_scale_codes`.
typedef struct {
  uint8_t first[65536];    ///< by the upper 16 bits of s: the code of the least s of that bucket
  float threshold[256];    ///< nearest rule: s above threshold[c] has a code above c
  uint8_t grid[65536];     ///< cpu rule: the code of each grid point
} nibble_scale_tables;

void nibble_make_scale_tables(const float map[256], nibble_scale_tables *tables);

/// Double quantization's second stage: d = absmax - offset, in blocks of `block` a nested absmax
/// A = max|d| and codes of d / A. `cpu` uses the grid of bitsandbytes' CPU kernel, otherwise the nearest
/// entry, exact ties to the even index. A block with A = 0 gets codes 0.
void nibble_encode_scale_codes(const nibble_scale_tables *tables, nibble_rules rules,
                               const float *absmax, size_t count, float offset, size_t block,
                               uint8_t *codes, float *nested_absmax);

/// absmax = fl(fl(map[code] * nested_absmax[block]) + offset).
void nibble_decode_scale_codes(const float map[256], const uint8_t *codes, size_t count,
                               const float *nested_absmax, size_t block, float offset, float *absmax);

/// How offsets of NF4 blocks are searched for.
typedef struct {
  size_t steps;          ///< candidates on each side of the median
  const float *factors;  ///< 2 * steps + 1, ascending: offset = fl(fl(factor * max|x - median|) + median)
  const int64_t *terms;  ///< c * log2(c) in fixed point for c from 0 to `block`: the greatest entropy of codes; NULL: the least squared error
  int centre;            ///< of candidates alike the one nearest to the median, else the first
} nibble_offset_search;

/// For each block of `x` (up to 4096 elements, the last perhaps short) the offset whose removal leaves NF4 codes of the best score, each
/// candidate with its own absmax, and the least and the greatest element: two floats a block in `ends`. The median is the lower one.
/// Without a search offsets stay what they are.
/// Blocks with non-finite elements, or whose range is not finite, have offset 0; of the former both ends are their absmax.
void nibble_find_offsets(const nibble_offset_search *search, const float *x, size_t count, size_t block, float *offsets,
                           float *ends, nibble_encode_counts *counts);

/// The absmax of each block without its offset, from its ends. Gives the number of blocks of zeros.
size_t nibble_offset_scales(const float *ends, const float *offsets, size_t blocks, float *absmax);

/// x += offset * factor for each element of each block; the factor is 1 or -1.
void nibble_add_offsets(const float *offsets, float factor, size_t block, float *x, size_t count);

/// Widens `count` numbers to float32 (exact, or rounded once for f64 and wide integers).
/// The greatest magnitude; NaN if there is one.
float nibble_row_absmax(const float *x, size_t count);

/// codes = round(x · (1 / scale · 127)); zeros for a scale of 0 or none.
void nibble_row_encode(const float *x, size_t count, float scale, int8_t *codes);

/// out = codes · scale · (1 / 127), rounded twice.
void nibble_row_decode(const int8_t *codes, size_t count, float scale, float *out);

void nibble_widen(nibble_variant variant, nibble_number number, const void *x, size_t count, float *out);

/// Rounds `count` floats (nearest even) into f32, f16 or bf16. NaN stays NaN; f16 overflows to infinity.
void nibble_narrow(nibble_variant variant, nibble_number number, const float *x, size_t count, void *out);

typedef struct {
  double squared_difference;  ///< sum of (b - a)^2
  double squared_a;           ///< sum of a^2
  double squared_b;
  double max_difference;      ///< max |b - a|
  double max_a;               ///< max |a|
  uint64_t unequal;           ///< elements with a != b (two NaNs count as equal)
  uint64_t nonfinite;         ///< pairs with a NaN or infinity on either side; left out of the sums
} nibble_difference_sums;

/// Adds what sets `b` apart from `a` to `sums`, float64 sums.
void nibble_difference(nibble_variant variant, const float *a, const float *b, size_t count,
                       nibble_difference_sums *sums);

typedef struct {
  double sum, sum_of_squares;  ///< finite elements
  float min, max;              ///< finite elements; start with +inf and -inf
  uint64_t zeros, nans, infinities;
} nibble_scan_sums;

/// Adds what is in `x` to `sums`.
void nibble_scan(nibble_variant variant, const float *x, size_t count, nibble_scan_sums *sums);

/// NaN and infinite elements in `count` numbers of f32, f16, bf16, f64 or the F8 formats, from their bits.
uint64_t nibble_count_nonfinite(nibble_variant variant, nibble_number number, const void *x, size_t count);

/// out[c * rows + r] = x[r * stride + c] for r < rows, c < columns; elements of 2, 4 or 8 bytes.
void nibble_transpose(size_t element, const void *x, size_t rows, size_t columns, size_t stride, void *out);

/// Splits `count` elements of 2 or 4 bytes into planes: all first bytes, then all second bytes, …; and back.
void nibble_split_planes(size_t element, const uint8_t *x, size_t count, uint8_t *planes);
void nibble_join_planes(size_t element, const uint8_t *planes, size_t count, uint8_t *x);

#include "CNibbleBlocks.h"
#include "CNibbleConvolutions.h"
#include "CNibbleLayers.h"
#include "CNibbleOptimizers.h"
#include "CNibbleProducts.h"
#include "CNibbleScaled.h"
#include "CNibbleWindows.h"

#endif
