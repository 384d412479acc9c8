// The code of a scaled element in plain C, for the encoder and the search for scales.

#ifndef NIBBLE_PORTABLE_CODE_H
#define NIBBLE_PORTABLE_CODE_H

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

typedef struct {
  float thresholds[16], values[16];
  uint8_t codes[16];
  float negative_below;
  uint32_t bump;
} nibble_tables;

NIBBLE_INLINE nibble_tables nibble_make_tables(int nf4, int cpu_ties) {
  nibble_tables t;
  const uint32_t *fp4 = cpu_ties ? nibble_fp4_cpu_thresholds : nibble_fp4_cuda_thresholds;
  const uint8_t *fp4_codes = cpu_ties ? nibble_fp4_cpu_codes : nibble_fp4_cuda_codes;
  for (int i = 0; i < 16; i++) {
    t.thresholds[i] = nibble_float(nf4 ? nibble_nf4_thresholds[i] : fp4[i & 7]);
    t.values[i] = nibble_float(nf4 ? nibble_nf4_values[i] : nibble_fp4_values[i]);
    t.codes[i] = nf4 ? (uint8_t)i : fp4_codes[i];
  }
  t.negative_below = nibble_float((uint32_t)cpu_ties);
  t.bump = (uint32_t)cpu_ties;
  return t;
}

/// The position of s in `t`, by the bucket functions of codebooks.h.
NIBBLE_INLINE unsigned nibble_position(const nibble_tables *t, int nf4, float s) {
  float a = nibble_float(nibble_bits(s) & 0x7fffffffu), within = a > 1.0f ? 1.0f : a;
  if (nf4) {
    float clamped = nibble_float(nibble_bits(within) | (nibble_bits(s) & 0x80000000u));
    float f = clamped * (NIBBLE_NF4_LINEAR - NIBBLE_NF4_QUADRATIC * within) + NIBBLE_NF4_MAGIC;
    unsigned k = nibble_bits(f) & 15;
    return k + (s > t->thresholds[k]);
  }
  float f = within * (NIBBLE_FP4_LINEAR - NIBBLE_FP4_QUADRATIC * within) + NIBBLE_FP4_MAGIC;
  unsigned k = nibble_bits(f) & 7, negative = s < t->negative_below;
  // `cpu` sends a tie below zero away from it: one float further it is no tie any more.
  float shifted = nibble_float(nibble_bits(a) + (negative & t->bump));
  return (k + (shifted > t->thresholds[k])) | negative << 3;
}

#endif
