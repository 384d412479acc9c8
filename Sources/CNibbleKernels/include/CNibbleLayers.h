// What a transformer does between its matrix products, over float32.
//
// Loops are written once (lanes.h, layers_loops.h, attend_loops.h) and compiled for each instruction set. Sums over a vector
// are float64, dot products float32 in several lanes; results of variants differ by rounding only, and do not depend on
// where in memory the numbers are. Nothing here allocates, checks or fails. NaN in gives NaN out; an infinity gives the
// limit or NaN, never another number.

#ifndef CNIBBLELAYERS_H
#define CNIBBLELAYERS_H

#include "CNibbleKernels.h"

/// Activation functions, named as configurations name them.
typedef enum {
  // Those with exp or erf give NaN for -infinity, as PyTorch does.
  nibble_silu = 0,       ///< x / (1 + exp(-x)); "silu", "swish"
  nibble_gelu = 1,       ///< x/2 (1 + erf(x / sqrt 2)); "gelu"
  nibble_gelu_tanh = 2,  ///< x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); "gelu_new", "gelu_fast" and so on
  nibble_relu = 3,
  nibble_tanh = 4,
  nibble_quick_gelu = 5,  ///< x / (1 + exp(-1.702 x))
  nibble_relu2 = 6,       ///< max(x, 0)^2
  nibble_sigmoid = 7,     ///< 1 / (1 + exp(-x))
  nibble_mish = 8,        ///< x tanh(log(1 + exp(x)))
  nibble_gelu_10 = 9,     ///< gelu, at most 10
  nibble_linear = 10,     ///< x
  nibble_leaky_relu = 11  ///< x, or 0.01 x where it is negative
} nibble_activation;

/// out = x / sqrt(mean(x^2) + eps) * weight, over n elements. out may be x.
void nibble_rms_norm(nibble_variant variant, const float *x, const float *weight, size_t n, float eps, float *out);

/// out = (x - mean) / sqrt(variance + eps) * weight + bias; bias may be NULL. The variance is of the differences (two passes). out may be x.
void nibble_layer_norm(nibble_variant variant, const float *x, const float *weight, const float *bias, size_t n, float eps,
                       float *out);

/// out = f(x), n elements. out may be x. Within 4e-7 * max(1, |x|, |f(x)|) of the exact value.
void nibble_activate(nibble_variant variant, nibble_activation f, const float *x, size_t n, float *out);

/// out = f(gate) * up, n elements. out may be either.
void nibble_activate_multiply(nibble_variant variant, nibble_activation f, const float *gate, const float *up, size_t n,
                              float *out);

/// dx = dy * f'(x), n elements. dx may be dy.
void nibble_activate_back(nibble_variant variant, nibble_activation f, const float *dy, const float *x, size_t n, float *dx);

/// Of y = f(gate) * up: dgate = dy * up * f'(gate), dup = dy * f(gate).
void nibble_activate_multiply_back(nibble_variant variant, nibble_activation f, const float *dy, const float *gate,
                                   const float *up, size_t n, float *dgate, float *dup);

/// The gradient of `nibble_rms_norm`'s input; dw, if not NULL, gets the weight's added. dx may be dy.
void nibble_rms_norm_back(nibble_variant variant, const float *dy, const float *x, const float *weight, size_t n, float eps,
                          float *dx, float *dw);

/// The same of `nibble_layer_norm`; db is the bias's.
void nibble_layer_norm_back(nibble_variant variant, const float *dy, const float *x, const float *weight, size_t n, float eps,
                            float *dx, float *dw, float *db);

/// Of p = softmax(scale * x): d, the gradient of p, becomes that of x: scale * p * (d - sum(p * d)).
void nibble_softmax_back(nibble_variant variant, const float *p, float *d, size_t n, float scale);

/// y += a * x, n elements; y += x where a is 1.
void nibble_add_scaled(nibble_variant variant, float a, const float *x, size_t n, float *y);

/// y *= x, n elements.
void nibble_multiply_by(nibble_variant variant, const float *x, size_t n, float *y);

/// Softmax of n numbers in place, after multiplying them by `scale` > 0: exp(scale (x - max)) / sum. Entries of -infinity
/// become 0; n of nothing but -infinity becomes zeros; +infinity makes all NaN.
void nibble_softmax(nibble_variant variant, float *x, size_t n, float scale);

/// log(sum(exp(x))) over n numbers, in float64 outside the exponentials' own float32; -infinity for n = 0.
double nibble_log_sum_exp(nibble_variant variant, const float *x, size_t n);

/// Rotary positions of one vector of `half` pairs (x[i], x[i + half]): (a cos - b sin, b cos + a sin), in place.
void nibble_rotate(nibble_variant variant, float *x, const float *cosines, const float *sines, size_t half);

/// The same of `count` pairs (x[2i], x[2i + 1]).
void nibble_rotate_pairs(float *x, const float *cosines, const float *sines, size_t count);

/// x = a x.
void nibble_scale(float a, float *x, size_t n);

/// d = d (1 - t * t), the gradient through t = tanh(x).
void nibble_tanh_back(const float *t, float *d, size_t n);

/// The greatest of n numbers and the least index that has it (a NaN anywhere wins, the first with its index); 0 and
/// -infinity for n = 0.
size_t nibble_argmax(nibble_variant variant, const float *x, size_t n, float *greatest);

/// Whether all n numbers are finite.
int nibble_all_finite(nibble_variant variant, const float *x, size_t n);

/// Keys and values of one head, and what is done with scores over them.
typedef struct {
  const float *k, *v;         ///< rows of keys and values
  size_t t;                   ///< how many of each
  size_t k_stride, v_stride;  ///< floats from one to the next; rows that lie close together (at most twice their length) come faster
  size_t k_width, v_width;    ///< floats of each
  float scale, cap;           ///< scores become scale * score, and with cap > 0 cap * tanh of that / cap
  const float *bias;          ///< NULL, or what is then added: t floats of each query,
  size_t bias_stride;         ///< so far apart
  const uint8_t *mask;        ///< NULL, or t bytes, 0 for keys not to be seen, whose keys and values may be anything
  const float *sinks;         ///< NULL, or of each query a score that takes its share and gives nothing
} nibble_answers;

/// Attention of `queries` query vectors that share one key-value head and one position: for each query q[g * q_stride ...], scores over
/// all keys, their softmax, and the weighted sum of the values into out[g * out_stride ...]. `scratch` holds queries * (t + 1) floats.
/// With no key to see, out is zeros. out overlaps nothing else.
void nibble_attend(nibble_variant variant, const float *q, size_t queries, size_t q_stride, const nibble_answers *answers, float *out,
                   size_t out_stride, float *scratch);

/// out[i * out_stride + j] = sum over k of left[i * left_stride + k] * right[k * right_stride + j], for `rows` i, `columns` j and
/// `rank` k: one fused multiply-add a k, in ascending order, so that every variant gives the same bits.
void nibble_low_rank(nibble_variant variant, const float *left, size_t left_stride, size_t rows, const float *right,
                     size_t right_stride, size_t columns, size_t rank, float *out, size_t out_stride);

/// Adds to sums, over n elements with moved = written - base: moved * delta, delta^2, base^2, (moved - delta)^2.
void nibble_change_sums(nibble_variant variant, const float *base, const float *written, const float *delta, size_t n,
                        double sums[4]);

/// Codes that keep what a change adds in the directions of a basis: the rounding error in those directions is
/// carried along, and later columns make up for it.
typedef struct {
  size_t columns, rank;
  const float *basis;       ///< [columns, rank], orthonormal columns
  const float *gains;       ///< [columns, rank]: what a carried error shifts column j by
  const float *codebook;    ///< 16 values in ascending order
  const float *thresholds;  ///< 15, halfway between them
  const uint8_t *numbers;   ///< the codes of these values
  int zero;                 ///< which of them is 0
  const float *scales;      ///< of blocks of `block` elements of the whole matrix
  size_t block;
} nibble_shaping;

size_t nibble_shape_scratch(size_t rank);

/// Packs `rows` rows t[rows, columns] whose first element is element `element` of the matrix. `codes` has room for rows * columns
/// bytes, of which half hold the codes afterwards; `values` gets what they decode to, `carries` [rows, rank] what is left of
/// t - values in each direction. `scratch` is nibble_shape_scratch bytes, aligned to 64. Every variant gives the same bits.
void nibble_shape(nibble_variant variant, const nibble_shaping *plan, const float *t, size_t element, size_t rows, uint8_t *codes,
                  float *values, float *carries, void *scratch);

/// What error feedback chooses from.
typedef struct {
  const float *codebook;    ///< 16 values in ascending order
  const float *thresholds;  ///< 15, halfway between them
  const uint8_t *numbers;   ///< the codes of these values
} nibble_feedback;

/// Codes of `columns` columns of `rows` rows, t[column * rows + row], column after column: each takes the value nearest to t over its
/// element's scale, and its error, over the diagonal of the upper triangular factor[column * stride + later], is taken from the later
/// columns of t, which is spoiled. `codes` gets a byte an element, `errors` what columns behind these are still to be given, both laid
/// out as t. rows is a multiple of 16. An element whose scale is 0 takes the code of zero.
void nibble_feed_back(const nibble_feedback *plan, const float *factor, size_t stride, size_t columns, size_t rows, float *t,
                      const float *scales, uint8_t *codes, float *errors);

/// One sweep of coordinate descent on tr((T - Q) H (T - Q)^T) over `columns` columns of Q, laid out as above: each takes the value nearest
/// to q + g / H_jj over its scale, g = (T - Q) H. `values` holds Q, `gradient` g of these columns; both are brought up to date, `codes` and
/// `steps` get the new codes and what was added to Q. `hessian` is the block of these columns.
void nibble_descend(const nibble_feedback *plan, const float *hessian, size_t stride, size_t columns, size_t rows, float *gradient,
                    const float *scales, float *values, uint8_t *codes, float *steps);

/// For each row, c . g and c . H c of the columns of one block, laid out as above: c are the values of the codes before they are scaled.
void nibble_scale_sums(const float *units, const float *hessian, size_t stride, size_t columns, size_t rows, const float *gradient,
                       float *slopes, float *curvatures);

#endif
