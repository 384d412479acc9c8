// The search for a block's scale, as every variant makes it.
//
// Of y, a block over its greatest magnitude, each of 16 scales (or these and their opposites) gives codes by the nearest
// value. Under the values q of these codes the best scale is Σyq / Σqq, which leaves the error Σyy − (Σyq)² / Σqq: the
// greatest (Σyq)² / Σqq wins, the first one on ties. Elements are added one after another, those at even places and those
// at odd ones by themselves, without fused operations: one answer everywhere.

#ifndef NIBBLE_SEARCH_H
#define NIBBLE_SEARCH_H

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { nibble_scales = 16 };

/// Reciprocals of the scales 1.4, 1.35, … 0.65. One of them is absmax itself, so that the search never does worse; those above
/// it leave the outermost values unused.
static const float nibble_search_steps[nibble_scales] = {
    20.0f / 28, 20.0f / 27, 20.0f / 26, 20.0f / 25, 20.0f / 24, 20.0f / 23, 20.0f / 22, 20.0f / 21,
    1.0f,       20.0f / 19, 20.0f / 18, 20.0f / 17, 20.0f / 16, 20.0f / 15, 20.0f / 14, 20.0f / 13};

/// Σyq and Σqq of `n` scales, at even and at odd places.
typedef struct {
  float yq[2][2 * nibble_scales], qq[2][2 * nibble_scales];
} nibble_search_sums;

NIBBLE_INLINE float nibble_best_scale(const nibble_search_sums *sums, int n) {
  float best = 0, most = -1;
  for (int k = 0; k < n; k++) {
    float yq = sums->yq[0][k] + sums->yq[1][k], qq = sums->qq[0][k] + sums->qq[1][k];
    float gain = yq * yq / qq;
    if (gain > most) {
      most = gain;
      best = yq / qq;
    }
  }
  return best;
}

#endif
