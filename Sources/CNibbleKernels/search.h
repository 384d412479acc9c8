// The search for a block's scale, as every variant makes it.
//
// Of y, a block over its greatest magnitude, a scale (or its opposite) gives codes by the nearest value. Under the values q
// of these codes the best scale is Σyq / Σqq, which leaves the error Σyy − (Σyq)² / Σqq: the greatest (Σyq)² / Σqq wins,
// the first one on ties.
//
// 16 scales from 1.4 to 0.65 of the greatest magnitude are tried roughly, in bytes: those above it leave the outermost
// values unused. An element is a signed byte round(127 y) and a level, its logarithm in 48ths of an octave; a scale is an
// offset that is taken from all levels, and a table gives the value of 119 q for what is left. Integers add up to the same
// in any order. The greatest magnitude itself, so that the search never does worse, and the best scale found of each sign
// are then compared in float32: sums of 16 lanes, a lane an element's place modulo 16, halves added until one is left,
// without fused operations. So there is one answer everywhere.

#ifndef NIBBLE_SEARCH_H
#define NIBBLE_SEARCH_H

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum {
  nibble_scales = 16,
  nibble_longest_block = 4096,
  /// Blocks that are searched roughly before their scales are compared, which hides how long a division takes.
  nibble_together = 8
};

/// What is taken from levels under the scales 1.4, 1.35, … 0.65: 48 log₂(scale / 0.65).
static const int8_t nibble_search_offsets[nibble_scales] = {53, 51, 48, 45, 42, 40, 36, 33, 30, 26, 23, 19, 14, 10, 5, 0};

/// From what is left of a level to 119 times the magnitude of a value. Its upper four bits are a place p; where it is above
/// thresholds[p], the next place (0 after 15) is right. Half way between two values, at m, lies 127 + 48 log₂(0.65 m),
/// rounded down; no two of these within 16.
typedef struct {
  int8_t thresholds[16], values[16];
} nibble_level_table;

static const nibble_level_table nibble_nf4_positive_levels = {
    {11, 31, 127, 49, 66, 86, 127, 127, -127, 127, 127, 127, -50, 127, 127, -14},
    {29, 40, 52, 52, 67, 86, 119, 119, 0, 9, 9, 9, 9, 19, 19, 19}};
static const nibble_level_table nibble_nf4_negative_levels = {
    {127, 22, 43, 63, 127, 85, 127, 127, -117, 127, 127, 127, 127, -41, 127, -4},
    {34, 34, 47, 62, 83, 83, 119, 119, 0, 11, 11, 11, 11, 11, 22, 22}};
/// The least value, 0.0052, counts as 0 here.
static const nibble_level_table nibble_fp4_levels = {
    {11, 127, 36, 59, 127, 84, 127, 127, 127, 127, 127, -73, 127, 127, 127, -12},
    {30, 40, 40, 60, 79, 79, 119, 119, 0, 0, 0, 0, 20, 20, 20, 20}};

/// A block in bytes.
typedef struct {
  _Alignas(64) int8_t levels[nibble_longest_block], elements[nibble_longest_block];
} nibble_byte_block;

/// The upper half of a product.
NIBBLE_INLINE uint16_t nibble_upper(uint16_t a, uint16_t b) { return (uint16_t)((uint32_t)a * b >> 16); }

/// The bits of |y| from 2⁻⁶ up are its logarithm with straight lines between powers of two; a cubic over the fraction f,
/// f (1 − f) (0.4234 − 0.1587 f), bends them to within 0.05 of a level.
NIBBLE_INLINE void nibble_fill_bytes(nibble_byte_block *bytes, const float *y, size_t block) {
  const int32_t least = 0x3c800000;
  for (size_t i = 0; i < block; i++) {
    int32_t above = (int32_t)(nibble_bits(y[i]) & 0x7fffffffu) - least;
    uint16_t h = (uint16_t)((above > 0 ? above : 0) >> 10), f = (uint16_t)(h << 3);
    uint16_t slope = (uint16_t)(27750 - nibble_upper(f, 10400)), bend = nibble_upper(f, (uint16_t)~f);
    // 384 levels in 2¹⁶ units of 2⁻¹³, rounded; 1 is level 127.
    h = (uint16_t)(h + (nibble_upper(bend, slope) >> 3) + 85);
    int16_t level = (int16_t)(nibble_upper(h, 384) - 161);
    bytes->levels[i] = (int8_t)(level > -128 ? level : -128);
    // The sum with 1.5 * 2²³ rounds to the nearest integer and leaves it in the low bits.
    bytes->elements[i] = (int8_t)nibble_bits(y[i] * 127.0f + 12582912.0f);
  }
}

/// The reciprocal of the best scale, from its sums in bytes.
NIBBLE_INLINE float nibble_step(int32_t yq, int32_t qq) { return (float)qq / (float)yq * (127.0f / 119.0f); }

NIBBLE_INLINE float nibble_gain(float yq, float qq) { return yq * yq / qq; }

/// The step of the first greatest gain.
NIBBLE_INLINE float nibble_rough_step(const int32_t yq[nibble_scales], const int32_t qq[nibble_scales]) {
  int best = 0;
  float most = -1;
  for (int k = 0; k < nibble_scales; k++) {
    float gain = nibble_gain((float)yq[k], (float)qq[k]);
    if (gain > most) {
      most = gain;
      best = k;
    }
  }
  return nibble_step(yq[best], qq[best]);
}

/// The best scale so far.
typedef struct {
  float gain, scale;
} nibble_best;

NIBBLE_INLINE void nibble_keep_best(nibble_best *best, float yq, float qq) {
  float gain = nibble_gain(yq, qq);
  if (gain > best->gain) *best = (nibble_best){gain, yq / qq};
}

#endif
