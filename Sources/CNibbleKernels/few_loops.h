// Products of few rows of x, written once. A variant includes this after products_loops.h's definitions (WIDTH, vec, VEC_LOAD,
// VEC_STORE, VEC_ADD, TURN, TARGET) and
//
//   VEC_MUL(w, x), VEC_FMA(w, x, c)  w * x, w * x + c
//   VEC_PART(p, n)         n <= WIDTH floats at p, then zeros
//   VEC_FILL(f)            f in every lane
//   FEW_MOST               8, 10 or 12: rows that count as few
//   FEW_PAIRS              rows of x up to which the sums of two rows of W fit the registers
//   FEW_DECODE, FEW_SCALES  how a piece of a row and scales of blocks are decoded
//   FEW_UNITS              if there are few_book, few_book_of and few_look_up: a codebook, and 2 * WIDTH numbers of a block in two registers,
//                          those at even places and those at odd ones
//   KERNELS                the variant's decoders
// and afterwards the function `rows` declared below.
//
// x is packed row by row, as it is; a variant may pack more behind that.

#include "products.h"

#ifndef TARGET_INLINE
#define TARGET_INLINE static inline __attribute__((always_inline)) TARGET
#endif

/// A product of few rows: its matrix, x, and memory for a decoded row and its scales.
typedef struct {
  const nibble_matrix *w;
  const float *x;
  size_t stride;
  const void *more;  ///< what the variant packed behind x
  float *row, *scales;  ///< scales of two rows' blocks, `scales_stride` apart
  size_t scales_stride;
} few_product;

/// For rows j ... j + n - 1 of W: sums[l][i] = lanes that add up to the product of row j + l of W and row i of x. `n` is 1 or 2
/// (of which more can be made of a loaded x), and gives each row the same sums.
TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]);

/// Floats from one packed row to the next: not a power of two, or all rows would compete for the same lines of the cache.
NIBBLE_INLINE size_t few_stride(size_t k) { return (k + 15) / 16 * 16 + 16; }

typedef int8_t few_bytes __attribute__((vector_size(WIDTH)));
typedef float few_floats __attribute__((vector_size(4 * WIDTH)));

/// nibble_scale_bytes_loop for WIDTH bytes.
TARGET_INLINE vec scaled_bytes(const int8_t *codes, float scale) {
  few_bytes bytes;
  memcpy(&bytes, codes, WIDTH);
  few_floats numbers = __builtin_convertvector(bytes, few_floats) * ((few_floats){} + scale) * ((few_floats){} + NIBBLE_BYTE_UNIT);
  return (vec)numbers;
}

/// A row of float32, or (`bytes`) of signed bytes with one scale, whose sums have the same bits as those of their float32.
TARGET_INLINE void row_of_numbers(const int m, const int bytes, const few_product *few, const void *row, float scale, vec *sums) {
  vec s[nibble_few][4];
  const int chains = m <= 2 ? 4 : m <= 4 ? 2 : 1;
  size_t k = few->w->columns, i = 0;
  const float *x = few->x, *w = row;
  const int8_t *codes = row;
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
    for (int c = 0; c < 4; c++) s[r][c] = (vec){0};
  for (; i + 4 * WIDTH <= k; i += 4 * WIDTH) {
    if (bytes) {
      __builtin_prefetch(codes + i + 4096);
    } else {
      __builtin_prefetch(w + i + 1024);
#if WIDTH == 16
      __builtin_prefetch(w + i + 1040);
      __builtin_prefetch(w + i + 1056);
      __builtin_prefetch(w + i + 1072);
#endif
    }
#pragma clang loop unroll(full)
    for (int c = 0; c < 4; c++) {
      vec v = bytes ? scaled_bytes(codes + i + c * WIDTH, scale) : VEC_LOAD(w + i + c * WIDTH);
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++)
        s[r][c % chains] = VEC_FMA(v, VEC_LOAD(x + (size_t)r * few->stride + i + (size_t)c * WIDTH), s[r][c % chains]);
    }
  }
  for (; i < k; i += WIDTH) {
    size_t n = k - i < WIDTH ? k - i : WIDTH;
    vec v;
    if (bytes) {
      float part[WIDTH] = {0};
      (KERNELS)->scale_bytes(codes + i, n, scale, nibble_f32, part);
      v = VEC_LOAD(part);
    } else {
      v = n < WIDTH ? VEC_PART(w + i, n) : VEC_LOAD(w + i);
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++) s[r][0] = VEC_FMA(v, VEC_LOAD(x + (size_t)r * few->stride + i), s[r][0]);
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < m; r++) {
    sums[r] = VEC_ADD(VEC_ADD(s[r][0], s[r][1]), VEC_ADD(s[r][2], s[r][3]));
  }
}

/// Row j of any matrix.
TARGET_INLINE void row_of_any(const int m, const few_product *few, size_t j, vec *sums) {
  const nibble_matrix *w = few->w;
  if (w->storage && w->storage->bytes) {
    row_of_numbers(m, 1, few, (const int8_t *)w->data + j * w->columns, nibble_load_f32(w->scales, j), sums);
    return;
  }
  const float *row = (const float *)w->data + j * w->columns;
  if (w->storage || w->number != nibble_f32) {
    nibble_matrix_run(KERNELS, w, j * w->columns, w->columns, nibble_f32, few->row);
    row = few->row;
  }
  row_of_numbers(m, 0, few, row, 0, sums);
}

/// Codes of one or two rows on their way through blocks.
typedef struct {
  const uint8_t *codes;
  const float *scale;
  size_t within;
} few_codes;

/// Rows j and on of codes, at their first elements.
TARGET_INLINE void start_codes(const int n, const few_product *few, size_t j, few_codes *at) {
  const nibble_matrix *w = few->w;
  for (int l = 0; l < n; l++) {
    size_t element = (j + (size_t)l) * w->columns;
    float *scales = few->scales + (size_t)l * few->scales_stride;
    size_t within, block = nibble_divide(element, w->block, &within);
    at[l] = (few_codes){(const uint8_t *)w->data + element / 2, scales, within};
    FEW_SCALES(w, block, nibble_blocks(w, within + w->columns), scales);
  }
}

/// Elements before a block ends in either row.
TARGET_INLINE size_t part_of_codes(const int n, const nibble_matrix *w, size_t left, const few_codes *at) {
  for (int l = 0; l < n; l++) left = w->block - at[l].within < left ? w->block - at[l].within : left;
  return left;
}

TARGET_INLINE void step_codes(const int n, const nibble_matrix *w, size_t part, few_codes *at) {
  for (int l = 0; l < n; l++) {
    at[l].codes += part / 2, at[l].within += part;
    if (at[l].within == w->block) at[l].within = 0, at[l].scale++;
  }
}

/// The lanes of each of WIDTH registers added up.
TARGET_INLINE vec sums_of(vec *v) {
  TURN(v);
  vec sum = v[0];
#pragma clang loop unroll(full)
  for (size_t l = 1; l < WIDTH; l++) sum = VEC_ADD(sum, v[l]);
  return sum;
}

TARGET_INLINE void store_sums(vec sum, size_t n, int add, float *out) {
  if (n == WIDTH) {
    VEC_STORE(out, add ? VEC_ADD(VEC_LOAD(out), sum) : sum);
  } else {
    float part[WIDTH];
    VEC_STORE(part, sum);
    for (size_t l = 0; l < n; l++) out[l] = add ? out[l] + part[l] : part[l];
  }
}

TARGET_INLINE void few_loop(const int m, const few_product *few, size_t first, size_t count, int add, float *y, size_t stride) {
  vec sums[WIDTH][nibble_few], turned[WIDTH];
  for (size_t j = 0; j < count; j += WIDTH) {
    size_t n = count - j < WIDTH ? count - j : WIDTH;
    size_t l = 0;
    for (; m <= FEW_PAIRS && l + 2 <= n; l += 2) rows(m, 2, few, first + j + l, sums + l);
    for (; l < n; l++) rows(m, 1, few, first + j + l, sums + l);
    for (int i = 0; i < m; i++) {
#pragma clang loop unroll(full)
      for (size_t l = 0; l < WIDTH; l++) turned[l] = l < n ? sums[l][i] : (vec){0};
      store_sums(sums_of(turned), n, add, y + (size_t)i * stride + first + j);
    }
  }
}

/// Rows of float32 no longer than a register, as the second factor of a low-rank adapter has them.
TARGET static void few_short(const few_product *few, size_t m, size_t first, size_t count, int add, float *y, size_t stride) {
  size_t k = few->w->columns;
  for (size_t j = 0; j < count; j += WIDTH) {
    size_t n = count - j < WIDTH ? count - j : WIDTH;
    const float *w = (const float *)few->w->data + (first + j) * k;
    for (size_t i = 0; i < m; i++) {
      vec x = VEC_LOAD(few->x + i * few->stride), products[WIDTH];
      for (size_t l = 0; l < n * k; l += 16) __builtin_prefetch(w + l + 2048);
#pragma clang loop unroll(full)
      for (size_t l = 0; l < WIDTH; l++) products[l] = VEC_MUL(l < n ? VEC_PART(w + l * k, k) : (vec){0}, x);
      store_sums(sums_of(products), n, add, y + i * stride + first + j);
    }
  }
}

#define FEW_CASES(call)       \
  switch (m) {                \
    case 1: call(1); break;   \
    case 2: call(2); break;   \
    case 3: call(3); break;   \
    case 4: call(4); break;   \
    case 5: call(5); break;   \
    case 6: call(6); break;   \
    case 7: call(7); break;   \
    case 8: call(8); break;   \
    FEW_MORE_CASES(call)      \
  }
#if FEW_MOST == 8
#define FEW_MORE_CASES(call)
#elif FEW_MOST == 10
#define FEW_MORE_CASES(call)  \
    case 9: call(9); break;   \
    default: call(10); break;
#else
#define FEW_MORE_CASES(call)  \
    case 9: call(9); break;   \
    case 10: call(10); break; \
    case 11: call(11); break; \
    default: call(12); break;
#endif

#include "few_transposed.h"

/// A decoded row and the scales of its blocks; or sums of the outputs, and pieces of W.
TARGET static size_t few_scratch(const nibble_matrix *w, size_t m, size_t count) {
  size_t forward = few_stride(w->columns) + w->columns + 64, backward = m * few_stride(count) + few_deep * few_wide;
  return 4 * (forward > backward ? forward : backward);
}

static size_t few_packed_bytes(size_t m, size_t k) { return 4 * m * few_stride(k); }

TARGET static void few_pack(const float *x, size_t m, size_t k, size_t stride, void *packed) {
  float *out = packed;
  for (size_t i = 0; i < m; i++, out += few_stride(k)) {
    memcpy(out, x + i * stride, 4 * k);
    memset(out + k, 0, 4 * (few_stride(k) - k));
  }
}

NIBBLE_INLINE few_product few_of(const nibble_matrix *w, const void *packed, size_t m, void *scratch) {
  few_product few = {.w = w, .x = packed, .stride = few_stride(w->columns), .row = scratch};
  few.scales = few.row + few_stride(w->columns);
  few.scales_stride = w->columns / 2 + 32;
  few.more = (const char *)packed + few_packed_bytes(m, w->columns);
  return few;
}

TARGET static void few_multiply(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                                float *y, size_t stride, void *scratch) {
  few_product few = few_of(w, packed, m, scratch);
  if (!w->storage && w->number == nibble_f32 && w->columns <= WIDTH) {
    few_short(&few, m, first, count, add, y, stride);
    return;
  }
#define CALL(m) few_loop(m, &few, first, count, add, y, stride)
  FEW_CASES(CALL)
#undef CALL
}
