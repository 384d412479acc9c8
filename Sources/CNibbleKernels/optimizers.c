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

void nibble_make_state_map(const float values[256], int is_signed, nibble_state_map *map) {
  memcpy(map->values, values, sizeof map->values);
  map->is_signed = is_signed;
  nibble_make_scale_tables(values, &map->tables);
  memset(map->levels, 0, sizeof map->levels);
  for (int level = 0; level < 8; level++)
    for (int i = 0; i < 1 << level; i++)
      map->levels[level][i] = map->tables.threshold[(2 * i + 1) * (1 << (7 - level)) - 1];
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
