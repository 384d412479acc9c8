// The code tables, as bit patterns. Where they come from: bitsandbytes' QLoRA tables.

#ifndef NIBBLE_CODEBOOKS_H
#define NIBBLE_CODEBOOKS_H

#include <stdint.h>

#define NIBBLE_INFINITY_BITS 0x7f800000u

/// NF4 values, ascending; code = position.
static const uint32_t nibble_nf4_values[16] = {
    0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0x00000000,
    0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};

/// Code = number of thresholds strictly below; the last never is.
static const uint32_t nibble_nf4_thresholds[16] = {
    0xbf591cd8, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec, 0xbe0d38bc, 0xbd3a7871, 0x3d22faff,
    0x3df64862, 0x3e5067e0, 0x3e9582d4, 0x3ec753f9, 0x3f006d04, 0x3f248daf, 0x3f5c89da,
    NIBBLE_INFINITY_BITS};

/// FP4 values by position: eight magnitudes, ascending, then the same with a minus.
static const uint32_t nibble_fp4_values[16] = {
    0x00000000, 0x3baaaaab, 0x3e2aaaab, 0x3e800000, 0x3eaaaaab, 0x3f000000, 0x3f2aaaab, 0x3f800000,
    0x80000000, 0xbbaaaaab, 0xbe2aaaab, 0xbe800000, 0xbeaaaaab, 0xbf000000, 0xbf2aaaab, 0xbf800000};

/// Magnitude thresholds: the literals of the CUDA kernel, and the exact midpoints its CPU kernel uses.
static const uint32_t nibble_fp4_cuda_thresholds[8] = {
    0x3b2aaab9, 0x3db00000, 0x3e555555, 0x3e955555, 0x3ed55556, 0x3f155550, 0x3f555555,
    NIBBLE_INFINITY_BITS};
static const uint32_t nibble_fp4_cpu_thresholds[8] = {
    0x3b2aaaab, 0x3db00000, 0x3e555556, 0x3e955556, 0x3ed55556, 0x3f155556, 0x3f555556,
    NIBBLE_INFINITY_BITS};

/// Codes by position. The CPU kernel sorts -0 (code 8) above 0, so there tiny positives take code 8.
static const uint8_t nibble_fp4_cuda_codes[16] = {0, 1, 6, 7, 4, 5, 2, 3, 8, 9, 14, 15, 12, 13, 10, 11};
static const uint8_t nibble_fp4_cpu_codes[16] = {8, 1, 6, 7, 4, 5, 2, 3, 0, 9, 14, 15, 12, 13, 10, 11};

// A bucket function places a scaled element next to its one possible threshold: rounding
// s * (linear - quadratic * |s|) + offset to an integer k leaves threshold k as the only one that
// can lie inside bucket k, with all lower ones below and all higher ones above. So
// code = k + (s > threshold[k]), exactly; the borders of the buckets keep 0.03 of their width clear of all
// thresholds, which makes the rounding of the function itself harmless. The sum with 1.5 * 2^23 leaves k in
// the low bits of a float.
#define NIBBLE_NF4_LINEAR 11.9375f
#define NIBBLE_NF4_QUADRATIC 4.5f
#define NIBBLE_NF4_MAGIC 12582919.0f
// The same for the magnitudes of FP4.
#define NIBBLE_FP4_LINEAR 11.25f
#define NIBBLE_FP4_QUADRATIC 4.75f
#define NIBBLE_FP4_MAGIC 12582912.0f

#endif
