// Products with weight matrices as files hold them: 4-bit codes, rows of bytes, bfloat16, float16 or float32.
//
// A weight matrix W has shape [rows, columns] (a layer's outputs and inputs), stored row by row. Three products are
// made with it, none of which ever holds the decoded matrix:
//
//   multiply              y[m, rows]     = x[m, columns] * W transposed     (forward)
//   multiply_transposed   dx[m, columns] = dy[m, rows] * W                  (backward through a frozen weight)
//   matrix_rows           out[n, columns] = rows of W as float32            (embeddings)
//
// Left-hand sides are float32 and packed once by `nibble_pack_rows`, then used for any ranges of outputs, from any
// number of threads. An output does not depend on the range it is computed in, so results are the same for any
// number of threads.
//
// Arithmetic. With `nibble_compute_f32` a weight is fl32(codebook[code] * scale), or what a storage's `run` gives, or the stored number widened; x is used
// as it is, and products are summed in float32. With `nibble_compute_bf16` weights and x are rounded once (nearest even)
// to bfloat16 after the scale was applied in float32, products are exact and summed in float32 (subnormals may flush);
// with few rows a variant may keep more than bfloat16 of either side. With one row a variant may apply scales in float32 to
// sums over the elements of a block: then what is rounded, if anything, is the codebook. The order of sums is the
// variant's own, and another for one row, for few and for many. So a variant's result lies within
// 2^-24 * (16 + 2 * sqrt(k)) * sum |x * w| of the exact sum of its factors, for sums of k products, and two variants, or two
// numbers of rows, differ by twice that; in bf16 with few rows by up to 2^-8 * sum |x * w|, where one of them rounds and the other
// does not.
//
// NaN and infinity in x, weights or scales reach every output they belong to.
//
// Nothing here allocates, checks or fails. All buffers of a matrix may be unaligned (they lie in mapped files), and nothing
// beyond them is read; packed and scratch buffers are aligned to 64 bytes. Rows are packed for one variant, compute and m:
// all calls that use them name the same. Up to 8 to 12 rows (the variant's choice) weights are used as they are decoded;
// with more, panels of outputs are decoded into scratch.

#ifndef CNIBBLEPRODUCTS_H
#define CNIBBLEPRODUCTS_H

#include "CNibbleKernels.h"

/// What products are computed in.
typedef enum { nibble_compute_f32 = 0, nibble_compute_bf16 = 1 } nibble_compute;

typedef struct nibble_matrix nibble_matrix;

/// A way to store the numbers of a matrix: what products need of it. One that has only `run` works, a row or panel decoded at a
/// time; variants have decoders and few-row products of their own for `blocks` and `bytes`.
typedef struct {
  size_t together, size;  ///< numbers that lie together in `data`, and their bytes: by these memory is asked for ahead
  int blocks;   ///< whether these are 4-bit codes in blocks
  int bytes;    ///< whether these are signed bytes with a scale a row
  /// Numbers of W from `element` on, row after row, into `out` as `number` (f32 or bf16, rounded once).
  void (*run)(nibble_variant variant, const nibble_matrix *w, size_t element, size_t n, nibble_number number, void *out);
} nibble_storage;

/// 4-bit codes in blocks: NF4, FP4 and any other table of 16 values.
const nibble_storage *nibble_block_storage(void);

/// Signed bytes with a scale a row: code · scale · (1 / 127), rounded after each.
const nibble_storage *nibble_row_storage(void);

/// A weight matrix in memory.
struct nibble_matrix {
  size_t rows, columns;
  const nibble_storage *storage;  ///< how numbers are stored; NULL where `data` is plain numbers
  const void *more;        ///< for storages not named here: whatever `run` needs
  nibble_number number;    ///< of plain elements: f32, f16 or bf16
  const void *data;        ///< elements, or codes: two a byte, first in the high nibble, flattened across rows
  size_t block;            ///< elements that share a scale, at least 2, even; blocks run on across the ends of rows
  const float *codebook;   ///< 16 values, aligned
  const float *scales;     ///< one a block, or one a row of bytes; NULL where scales are coded themselves:
  const uint8_t *scale_codes;   ///< one a block: scale = fl(fl(scale_map[code] * nested_scales[b / nested_block]) + offset)
  const float *scale_map;       ///< 256 values, aligned
  const float *nested_scales;   ///< one for `nested_block` blocks
  size_t nested_block;
  float offset;
};

/// Bytes `nibble_pack_rows` writes for `m` rows of `k` numbers; a multiple of 64.
size_t nibble_packed_bytes(nibble_variant variant, nibble_compute compute, size_t m, size_t k);

/// Packs x[m, k], rows `stride` floats apart, as the left-hand side of products with a matrix whose inner dimension is k.
void nibble_pack_rows(nibble_variant variant, nibble_compute compute, const float *x, size_t m, size_t k, size_t stride,
                      void *packed);

/// Bytes of scratch a call of `nibble_multiply` or `nibble_multiply_transposed` with `count` outputs needs, each thread its own.
size_t nibble_multiply_scratch(nibble_variant variant, nibble_compute compute, const nibble_matrix *w, size_t m, size_t count);

/// y[i * stride + j] = sum over k of x[i, k] * W[j, k], for i < m and first <= j < first + count; added to y if `add`.
/// `packed` is x packed with k = w->columns.
void nibble_multiply(nibble_variant variant, nibble_compute compute, const nibble_matrix *w, const void *packed, size_t m,
                     size_t first, size_t count, int add, float *y, size_t stride, void *scratch);

/// dx[i * stride + k] = sum over j of dy[i, j] * W[j, k], for i < m and first <= k < first + count; added to dx if `add`.
/// `packed` is dy packed with k = w->rows.
void nibble_multiply_transposed(nibble_variant variant, nibble_compute compute, const nibble_matrix *w, const void *packed,
                                size_t m, size_t first, size_t count, int add, float *dx, size_t stride, void *scratch);

/// The number of outputs a range should be a multiple of, so that no work is done twice at its ends. A range of one such step
/// may be small (64 rows of W with few rows of x): give threads ranges worth 20 microseconds or more.
size_t nibble_multiply_step(nibble_variant variant, nibble_compute compute, size_t m);

/// out[i, columns] = row first + i of W as float32, for i < count. Bit for bit the same in every variant.
void nibble_matrix_rows(nibble_variant variant, const nibble_matrix *w, size_t first, size_t count, float *out);

#endif
