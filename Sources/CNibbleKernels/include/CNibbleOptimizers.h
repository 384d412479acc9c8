// Steps of optimizers over float32 numbers, and their states in 8 bits.
//
// Every variant gives the same bits: the arithmetic is IEEE float32 without fused operations, and sums are float64 in sixteen
// lanes, whatever the registers. Nothing here allocates, checks or fails. p are the numbers that are trained, g their gradient.

#ifndef CNIBBLEOPTIMIZERS_H
#define CNIBBLEOPTIMIZERS_H

#include "CNibbleKernels.h"

/// One step of Adam. With x = keep p and d = g + coupled x:
/// m += first_share (d - m); v = beta2 v + second_share d d; p = x - size m / (sqrt(v) / root + epsilon). A root of 1 divides nothing.
typedef struct {
  float keep;          ///< 1 - rate * decay, of AdamW
  float coupled;       ///< the decay, of Adam
  float first_share;   ///< 1 - beta1
  float beta2, second_share;
  float size;          ///< rate / (1 - beta1^t)
  float root;          ///< sqrt(1 - beta2^t)
  float epsilon;
} nibble_adam;

void nibble_adam_step(nibble_variant variant, const nibble_adam *step, float *p, const float *g, float *m, float *v, size_t n);

/// One step of gradient descent. With d = g + decay p: m = momentum m + d, or d in the `first` step; p -= rate m. Without m: p -= rate d.
typedef struct {
  float rate, decay, momentum;
  int first;
} nibble_descent;

void nibble_descent_step(nibble_variant variant, const nibble_descent *step, float *p, const float *g, float *m, size_t n);

/// One step of Lion: p *= keep; p -= rate sign(beta1 m + share1 g); m = beta2 m + share2 g.
typedef struct {
  float rate, keep, beta1, share1, beta2, share2;
} nibble_lion;

void nibble_lion_step(nibble_variant variant, const nibble_lion *step, float *p, const float *g, float *m, size_t n);

/// One step of schedule-free AdamW, p being y: v = beta2 v + second_share g g; d = g / (sqrt(v / correction) + epsilon) + decay y;
/// y moves towards z by `weight`; y += slope d; z -= rate d.
typedef struct {
  float rate, slope, weight, decay;
  float beta2, second_share, correction, epsilon;
} nibble_schedule_free;

void nibble_schedule_free_step(nibble_variant variant, const nibble_schedule_free *step, float *y, const float *g, float *z,
                               float *v, size_t n);

/// x moves towards z by `weight`.
void nibble_move_towards(nibble_variant variant, float weight, float *x, const float *z, size_t n);

/// Adafactor: the sum of g g + epsilon over n numbers.
double nibble_square_sum(nibble_variant variant, const float *g, size_t n, float epsilon);

/// The same, each added to its own sum.
void nibble_add_squares(nibble_variant variant, const float *g, size_t n, float epsilon, double *sums);

/// v = keep v + share (g g + epsilon).
void nibble_mean_squares(nibble_variant variant, const float *g, size_t n, float epsilon, float keep, float share, float *v);

/// With u = g * row * factors: the sum of u u. `factors` belongs to the columns.
double nibble_update_sum(nibble_variant variant, const float *g, const float *factors, float row, size_t n);

/// p = p + decay p - size u, u as above.
void nibble_update_step(nibble_variant variant, float *p, const float *g, const float *factors, float row, size_t n, float decay,
                        float size);

/// out = 1 / sqrt(scale * x).
void nibble_inverse_roots(nibble_variant variant, const float *x, size_t n, float scale, float *out);

/// Elements of a block of states that share a scale.
enum { nibble_state_block = 256 };

/// bitsandbytes' dynamic map of 256 values as a formula of seven decades: in decade d the values lie evenly between 10^(d-7) and 10^(d-6), twice
/// as many as in the decade below, and 1 comes last. The formula is within 2 units in the last place of the map, codes are the nearest
/// unless a number is as near to the middle between two values.
typedef struct {
  int is_signed;       ///< whether 0 is code 127; else it is code 0
  float least;         ///< above half of the least value, numbers are no longer nearest to 0
  float floor;         ///< in the cell of the least value
  float next[8];       ///< where the next decade begins; entry 7 is the value 1
  float slope[8], rise[8], last[8];  ///< number of a value of decade d: min(slope y + rise, last), cut
  float shift[8], unit[8];           ///< value of number j: (j + shift) unit, by the exponent of j in its last three bits
} nibble_state_map;

void nibble_make_state_map(int is_signed, nibble_state_map *map);

/// out = map[code] * absmax of the block. Blocks begin with the first element; the last may be short.
void nibble_decode_states(nibble_variant variant, const nibble_state_map *map, const uint8_t *codes, size_t n, const float *absmax,
                          float *out);

/// Of each block the greatest magnitude, and the codes of the values nearest to x / absmax. Two rules for numbers near 0 are not those of
/// bitsandbytes' CUDA kernel, with which a number could jump when its gradient is 0 (m / epsilon): a positive number whose nearest value is 0
/// takes the least positive value of an unsigned map, and negative numbers of a signed map become 0 where positive ones do. A block of
/// zeros has the code of 0.
void nibble_encode_states(nibble_variant variant, const nibble_state_map *map, const float *x, size_t n, uint8_t *codes, float *absmax);

#endif
