// What the files of products share: how the blocking (products.c) sees a variant.
//
// Work is cut into 4-byte units: one float32, or two bfloat16 that are neighbours along the sum. One side of a tile of
// outputs is numbers of W, each spread over a register; the other is a register of as many rows of x.

#ifndef NIBBLE_PRODUCTS_H
#define NIBBLE_PRODUCTS_H

#include "internal.h"

enum {
  nibble_panel = 192,   ///< outputs decoded together; a multiple of every tile and of 64, the usual block
  nibble_depth = 256,   ///< units of the sum decoded together: 1 KB of each output
  nibble_rows_at_once = 512  ///< rows of x for which a panel is decoded once
};

/// Products of few rows of x, where reading W is the work: every weight is used as soon as it is decoded. Entries are as in
/// CNibbleProducts.h.
typedef struct {
  size_t most;  ///< rows that count as few
  size_t (*packed_bytes)(size_t m, size_t k);
  void (*pack)(const float *x, size_t m, size_t k, size_t stride, void *packed);
  size_t (*scratch)(const nibble_matrix *w, size_t m, size_t count);
  void (*multiply)(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add, float *y,
                   size_t stride, void *scratch);
  void (*multiply_transposed)(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                              float *dx, size_t stride, void *scratch);
} nibble_few_products;

enum { nibble_few = 12 };  ///< the most rows of x that count as few anywhere

/// Memory that is asked for while something else is computed, a line at each step: more at once would keep that waiting.
typedef struct {
  uintptr_t at, end;  ///< the next line of a piece, and where that ends
  size_t step;        ///< 64, and 0 once there is no more
  size_t stride;      ///< from the end of a piece to that of the next
  size_t skip;        ///< from the end of the last line to the next piece, less what lines have beyond it
  size_t pieces;      ///< that are left, this one included
} nibble_fetch;

/// The next step.
NIBBLE_INLINE void nibble_fetch_line(nibble_fetch *f) {
  __builtin_prefetch((const void *)f->at, 0, 2);
  f->at += f->step;
  if (f->at < f->end) return;
  f->at = f->end + f->skip, f->end += f->stride;
  if (--f->pieces) return;
  f->step = 0, f->end = UINTPTR_MAX;
}

/// Products of many rows. Rows of x come packed: tiles of 2 * `width` rows (the last one perhaps of `width`), each as
/// [unit][row].
typedef struct {
  size_t pair;   ///< numbers in a unit: 1 or 2
  size_t width;  ///< floats in a register
  size_t tile;   ///< outputs of a tile

  /// Packs one tile of `rows` rows, the rest of its `lanes` zeros.
  void (*pack)(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *out);
  /// Numbers of W in a row from `element` on, as panels hold them.
  void (*decode)(const nibble_matrix *w, size_t element, size_t n, void *out);
  /// Units of a pair of rows; `rows` is 1 where there is no second. NULL where a unit is one number.
  void (*decode_pair)(const nibble_matrix *w, size_t row, size_t rows, size_t column, size_t n, uint32_t *out);
  /// c[output * lanes + row] = or += sums over `units` of panel * x; outputs are `nibble_depth` units apart in the panel,
  /// or (`along`) units are `nibble_panel` outputs apart. With two registers of rows a line is fetched for each unit.
  void (*tile_product)(const uint32_t *panel, int along, const void *x, size_t units, size_t outputs, size_t lanes, int add,
                       float *c, nibble_fetch *fetch);
  /// y[row * stride + output] = or += c[output * lanes + row].
  void (*store)(const float *c, size_t outputs, size_t lanes, size_t rows, int add, float *y, size_t stride);

  const nibble_few_products *few;
} nibble_products;

#if defined(__x86_64__)
extern const nibble_products nibble_avx2_products[2];  // by nibble_compute
extern const nibble_products nibble_avx512_products[2];
extern const nibble_products nibble_avx512bf16_product;
extern const nibble_few_products nibble_avx2_few, nibble_avx512_few, nibble_avx512bf16_few;
#elif defined(__aarch64__)
extern const nibble_products nibble_neon_products[2];
extern const nibble_few_products nibble_neon_few;
#endif

/// Whether W is 4-bit codes in blocks, which variants have their own ways with.
NIBBLE_INLINE int nibble_has_blocks(const nibble_matrix *w) { return w->storage && w->storage->blocks; }

/// Bytes that `n` numbers of W take, as far as they are whole ones.
NIBBLE_INLINE size_t nibble_storage_bytes(const nibble_matrix *w, size_t n) {
  return w->storage ? n * w->storage->size / w->storage->together : n * nibble_number_size(w->number);
}

/// n / by and what is left. Blocks are nearly always powers of two, and there are many divisions by them.
NIBBLE_INLINE size_t nibble_divide(size_t n, size_t by, size_t *rest) {
  if (!(by & (by - 1))) {
    *rest = n & (by - 1);
    return n >> __builtin_ctzll(by);
  }
  *rest = n % by;
  return n / by;
}

/// Blocks that `n` numbers from a block's start lie in.
NIBBLE_INLINE size_t nibble_blocks(const nibble_matrix *w, size_t n) {
  size_t rest;
  return nibble_divide(n + w->block - 1, w->block, &rest);
}

/// Numbers of W in a row from `element` on, as `number` (f32 or bf16). By the variant's decoders.
void nibble_matrix_run(const nibble_kernels *kernels, const nibble_matrix *w, size_t element, size_t n, nibble_number number,
                       void *out);

/// The scales of blocks first ... first + n - 1.
void nibble_matrix_scales(const nibble_matrix *w, size_t first, size_t n, float *scales);

size_t nibble_portable_packed_bytes(size_t m, size_t k);
void nibble_portable_pack(nibble_compute compute, const float *x, size_t m, size_t k, size_t stride, void *packed);
size_t nibble_portable_scratch(const nibble_matrix *w, size_t m);
void nibble_portable_multiply(nibble_compute compute, const nibble_matrix *w, const void *packed, size_t m, size_t first,
                              size_t count, int add, float *y, size_t stride, void *scratch);
void nibble_portable_multiply_transposed(nibble_compute compute, const nibble_matrix *w, const void *packed, size_t m,
                                         size_t first, size_t count, int add, float *dx, size_t stride, void *scratch);

#endif
