// What the files of ggml's blocks share: what blocks look like, and how a variant sees them.

#ifndef NIBBLE_GGML_H
#define NIBBLE_GGML_H

#include "internal.h"

enum { nibble_ggml_most = 256 };  ///< the most numbers in a block

/// Where blocks have what; all begin with nothing that must be aligned.
typedef struct {
  uint16_t numbers, bytes;
  int16_t scale, minimum;  ///< places of the float16 scale and of the second one; -1 where there is none
} nibble_ggml_layout;

nibble_ggml_layout nibble_ggml_layout_of(nibble_ggml type);

/// One variant.
typedef struct {
  /// Whole blocks.
  void (*decode)(nibble_ggml type, const uint8_t *blocks, size_t count, float *out);
  /// The same the other way.
  void (*encode)(nibble_ggml type, const float *x, size_t count, uint8_t *out, nibble_ggml_counts *counts);
  /// Whole rows, with an importance of each column; of types that search for scales.
  void (*encode_rows)(nibble_ggml type, const float *x, const float *importance, size_t columns, size_t count, uint8_t *out,
                      nibble_ggml_counts *counts);
} nibble_ggml_kernels;

extern const nibble_ggml_kernels nibble_portable_ggml;
#if defined(__x86_64__)
extern const nibble_ggml_kernels nibble_avx2_ggml, nibble_avx512_ggml;
#elif defined(__aarch64__)
extern const nibble_ggml_kernels nibble_neon_ggml;
#endif

/// The levels of iq4_nl and iq4_xs.
static const int8_t nibble_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/// The levels of mxfp4, which are those of FP4 E2M1 doubled.
static const int8_t nibble_mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// Half of 2^(e - 127), for doubled levels; as ggml has it, without a NaN.
NIBBLE_INLINE float nibble_half_of_e8m0(uint8_t e) {
  return nibble_float(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/// Scale and minimum of a group of q4_k or q5_k, 6 bits each: the first four groups have theirs in whole bytes, whose upper bits are
/// those of the last four.
NIBBLE_INLINE void nibble_six_bits(const uint8_t *packed, int group, uint8_t *scale, uint8_t *minimum) {
  if (group < 4) {
    *scale = packed[group] & 63;
    *minimum = packed[group + 4] & 63;
  } else {
    *scale = (uint8_t)((packed[group + 4] & 15) | packed[group - 4] >> 6 << 4);
    *minimum = (uint8_t)(packed[group + 4] >> 4 | packed[group] >> 6 << 4);
  }
}

/// Sixteen scales of q3_k, 6 bits each, less 32: four low bits first, two to a byte, then the two high bits, four to a byte.
NIBBLE_INLINE int nibble_q3_scale(const uint8_t *packed, int group) {
  int low = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
  return (low | (packed[8 + group % 4] >> 2 * (group / 4) & 3) << 4) - 32;
}

/// The scale of a group of iq4_xs, 6 bits less 32.
NIBBLE_INLINE int nibble_iq4_scale(const uint8_t *block, int group) {
  int low = block[4 + group / 2] >> 4 * (group % 2) & 15;
  return (low | (nibble_load16(block, 1) >> 2 * group & 3) << 4) - 32;
}

#endif
