// The optimizers of one variant, as a table.

#ifndef NIBBLE_OPTIMIZERS_H
#define NIBBLE_OPTIMIZERS_H

#include "internal.h"

typedef struct {
  void (*adam)(const nibble_adam *step, float *p, const float *g, float *m, float *v, size_t n);
  void (*descent)(const nibble_descent *step, float *p, const float *g, float *m, size_t n);
  void (*lion)(const nibble_lion *step, float *p, const float *g, float *m, size_t n);
  void (*schedule_free)(const nibble_schedule_free *step, float *y, const float *g, float *z, float *v, size_t n);
  void (*move_towards)(float weight, float *x, const float *z, size_t n);
  double (*square_sum)(const float *g, size_t n, float epsilon);
  void (*add_squares)(const float *g, size_t n, float epsilon, double *sums);
  void (*mean_squares)(const float *g, size_t n, float epsilon, float keep, float share, float *v);
  double (*update_sum)(const float *g, const float *factors, float row, size_t n);
  void (*update_step)(float *p, const float *g, const float *factors, float row, size_t n, float decay, float size);
  void (*inverse_roots)(const float *x, size_t n, float scale, float *out);
  /// One block.
  void (*decode)(const nibble_state_map *map, const uint8_t *codes, size_t n, float absmax, float *out);
  float (*greatest)(const float *x, size_t n);
  /// One block, whose absmax is not 0.
  void (*encode)(const nibble_state_map *map, const float *x, size_t n, float absmax, uint8_t *codes);
} nibble_optimizers;

extern const nibble_optimizers nibble_portable_optimizers;
#if defined(__x86_64__)
extern const nibble_optimizers nibble_avx2_optimizers;
extern const nibble_optimizers nibble_avx512_optimizers;
#endif

#endif
