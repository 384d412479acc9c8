// The public entries of the optimizers, which only choose a variant and walk over blocks.

#include "optimizers.h"

#pragma STDC FP_CONTRACT OFF

static const nibble_optimizers *optimizers_of(nibble_variant variant) {
  if (!nibble_variant_runs(variant)) return &nibble_portable_optimizers;
  switch (variant) {
#if defined(__x86_64__)
    case nibble_avx2: return &nibble_avx2_optimizers;
    case nibble_avx512bf16:
    case nibble_avx512: return &nibble_avx512_optimizers;
#endif
    // The compiler's own vectors are NEON's where that is the baseline.
    default: return &nibble_portable_optimizers;
  }
}

void nibble_adam_step(nibble_variant variant, const nibble_adam *step, float *p, const float *g, float *m, float *v, size_t n) {
  optimizers_of(variant)->adam(step, p, g, m, v, n);
}

void nibble_descent_step(nibble_variant variant, const nibble_descent *step, float *p, const float *g, float *m, size_t n) {
  optimizers_of(variant)->descent(step, p, g, m, n);
}

void nibble_lion_step(nibble_variant variant, const nibble_lion *step, float *p, const float *g, float *m, size_t n) {
  optimizers_of(variant)->lion(step, p, g, m, n);
}

void nibble_schedule_free_step(nibble_variant variant, const nibble_schedule_free *step, float *y, const float *g, float *z,
                               float *v, size_t n) {
  optimizers_of(variant)->schedule_free(step, y, g, z, v, n);
}

void nibble_move_towards(nibble_variant variant, float weight, float *x, const float *z, size_t n) {
  optimizers_of(variant)->move_towards(weight, x, z, n);
}

double nibble_square_sum(nibble_variant variant, const float *g, size_t n, float epsilon) {
  return optimizers_of(variant)->square_sum(g, n, epsilon);
}

void nibble_add_squares(nibble_variant variant, const float *g, size_t n, float epsilon, double *sums) {
  optimizers_of(variant)->add_squares(g, n, epsilon, sums);
}

void nibble_mean_squares(nibble_variant variant, const float *g, size_t n, float epsilon, float keep, float share, float *v) {
  optimizers_of(variant)->mean_squares(g, n, epsilon, keep, share, v);
}

double nibble_update_sum(nibble_variant variant, const float *g, const float *factors, float row, size_t n) {
  return optimizers_of(variant)->update_sum(g, factors, row, n);
}

void nibble_update_step(nibble_variant variant, float *p, const float *g, const float *factors, float row, size_t n, float decay,
                        float size) {
  optimizers_of(variant)->update_step(p, g, factors, row, n, decay, size);
}

void nibble_inverse_roots(nibble_variant variant, const float *x, size_t n, float scale, float *out) {
  optimizers_of(variant)->inverse_roots(x, n, scale, out);
}

void nibble_make_state_map(int is_signed, nibble_state_map *map) {
  *map = (nibble_state_map){.is_signed = is_signed};
  // Values of decade 0; number of the first value of a decade.
  const int fewest = is_signed ? 1 : 2;
  double tenth = 1e-7;
  for (int d = 0; d < 7; d++, tenth *= 10) {
    double count = fewest << d, first = is_signed ? count : count - 1, gap = 9 * tenth / count;
    // The first value of the next decade, which is 1 behind the last.
    double last = tenth * 10 - gap / 2, next = d < 6 ? tenth * 10 + 9 * tenth * 10 / (2 * count) / 2 : 1;
    map->next[d] = (float)((last + next) / 2);
    map->slope[d] = (float)(1 / gap);
    map->rise[d] = (float)(first - tenth / gap);
    map->last[d] = (float)(first + count - 1);
    // Codes of an unsigned map are counted from 1 here, so that decades begin with powers of two.
    int exponent = is_signed ? d : d + 1;
    map->shift[(exponent + 127) & 7] = (float)(0.5 + tenth / gap - count);
    map->unit[(exponent + 127) & 7] = (float)gap;
    if (d == 0) map->least = (float)((tenth + gap / 2) / 2), map->floor = (float)(tenth + gap / 2);
  }
  map->next[7] = __builtin_inff();
  map->rise[7] = map->last[7] = is_signed ? 128 : 255;
  map->unit[is_signed ? 134 & 7 : 135 & 7] = is_signed ? 1.0f / 128 : 1.0f / 256;
}

void nibble_decode_states(nibble_variant variant, const nibble_state_map *map, const uint8_t *codes, size_t n, const float *absmax,
                          float *out) {
  const nibble_optimizers *own = optimizers_of(variant);
  for (size_t i = 0; i < n; i += nibble_state_block)
    own->decode(map, codes + i, n - i < nibble_state_block ? n - i : nibble_state_block, absmax[i / nibble_state_block], out + i);
}

void nibble_encode_states(nibble_variant variant, const nibble_state_map *map, const float *x, size_t n, uint8_t *codes,
                          float *absmax) {
  const nibble_optimizers *own = optimizers_of(variant);
  for (size_t i = 0; i < n; i += nibble_state_block) {
    size_t part = n - i < nibble_state_block ? n - i : nibble_state_block;
    float greatest = own->greatest(x + i, part);
    absmax[i / nibble_state_block] = greatest;
    if (greatest == 0)
      memset(codes + i, map->is_signed ? 127 : 0, part);
    else
      own->encode(map, x + i, part, greatest, codes + i);
  }
}
