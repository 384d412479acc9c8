// Transposed products of few rows, part of few_loops.h. Rows of W are taken some at a time and followed side by side, so that sums are
// loaded and stored once for all of them; with one row of x plain numbers one at a time, since memory is faster in one stream than in
// eight. Every output is a sum in the order of the rows, whichever outputs it is computed with.
//
// Weights of float32 and bfloat16, and codes where the variant looks units of them up (FEW_UNITS), are added to the sums as they are
// read. Others are decoded a piece at a time.

enum { few_deep = 8, few_wide = 512 };  ///< rows followed side by side; with this many numbers each, the piece that is decoded at once
enum { direct_sums = 4096 };            ///< sums that stay in the nearest cache

typedef uint16_t few_halves __attribute__((vector_size(2 * WIDTH)));
typedef uint32_t few_words __attribute__((vector_size(4 * WIDTH)));

/// WIDTH numbers of float32 or (`half`) bfloat16.
TARGET_INLINE vec direct_load(const int half, const char *row, size_t at) {
  if (!half) return VEC_LOAD((const float *)(const void *)(row + 4 * at));
  few_halves bits;
  memcpy(&bits, row + 2 * at, sizeof bits);
  return (vec)(__builtin_convertvector(bits, few_words) << 16);
}

/// sums[0...n] += x[0] * row 0 + x[1] * row 1 + ... for `deep` rows; `n` is a multiple of 2 * WIDTH. What lies `ahead` bytes on is fetched.
TARGET_INLINE void direct_numbers(const int m, const int half, const char *rows, size_t row_bytes, size_t ahead, const float *x,
                                  size_t x_stride, size_t deep, size_t n, float *sums, size_t sums_stride) {
  for (size_t c = 0; c < n; c += 2 * WIDTH) {
    vec s[nibble_few][2];
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
      for (size_t v = 0; v < 2; v++) s[r][v] = VEC_LOAD(sums + (size_t)r * sums_stride + c + v * WIDTH);
    for (size_t l = 0; l < deep; l++) {
      const char *row = rows + l * row_bytes;
      uintptr_t next = (uintptr_t)row + ahead + (half ? 2 : 4) * c;
      __builtin_prefetch((const void *)next, 0, 2);
      if (!half && WIDTH == 16) __builtin_prefetch((const void *)(next + 64), 0, 2);
      vec w0 = direct_load(half, row, c), w1 = direct_load(half, row, c + WIDTH);
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++) {
        vec factor = VEC_FILL(x[(size_t)r * x_stride + l]);
        s[r][0] = VEC_FMA(w0, factor, s[r][0]);
        s[r][1] = VEC_FMA(w1, factor, s[r][1]);
      }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
      for (size_t v = 0; v < 2; v++) VEC_STORE(sums + (size_t)r * sums_stride + c + v * WIDTH, s[r][v]);
  }
}

#ifdef FEW_UNITS
/// The same of codes in whole blocks of units: of every unit the sums at even places lie first, then those at odd ones.
///
/// `scales` has those of each row's blocks, `scales_stride` apart, the first of them of the block that `within` numbers of lie before.
TARGET_INLINE void direct_codes(const int m, const nibble_matrix *w, const uint8_t *codes, size_t ahead, const float *scales,
                                size_t scales_stride, size_t within, const float *x, size_t x_stride, size_t deep, size_t n, float *sums, size_t sums_stride) {
  enum { unit = 2 * WIDTH };
  const size_t row_bytes = w->columns / 2;
  const few_book book = few_book_of(w->codebook);
  for (size_t c = 0, part; c < n; c += part, scales++, within = 0) {
    part = w->block - within < n - c ? w->block - within : n - c;
    for (size_t at = c; at < c + part; at += unit) {
      vec s[nibble_few][2];
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
        for (size_t v = 0; v < 2; v++) s[r][v] = VEC_LOAD(sums + (size_t)r * sums_stride + at + v * WIDTH);
      for (size_t l = 0; l < deep; l++) {
        const uint8_t *row = codes + l * row_bytes + at / 2;
        __builtin_prefetch((const void *)((uintptr_t)row + ahead), 0, 2);
        vec both[2];
        few_look_up(book, scales[l * scales_stride], row, both);
#pragma clang loop unroll(full)
        for (int r = 0; r < m; r++) {
          vec factor = VEC_FILL(x[(size_t)r * x_stride + l]);
          s[r][0] = VEC_FMA(both[0], factor, s[r][0]);
          s[r][1] = VEC_FMA(both[1], factor, s[r][1]);
        }
      }
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
        for (size_t v = 0; v < 2; v++) VEC_STORE(sums + (size_t)r * sums_stride + at + v * WIDTH, s[r][v]);
    }
  }
}

/// Units of sums in the order of the outputs.
TARGET_INLINE void direct_order(float *sums, size_t n) {
  for (size_t c = 0; c < n; c += 2 * WIDTH) {
    float both[2 * WIDTH];
    for (size_t l = 0; l < WIDTH; l++) both[2 * l] = sums[c + l], both[2 * l + 1] = sums[c + WIDTH + l];
    memcpy(sums + c, both, sizeof both);
  }
}
#endif

/// Outputs that can be computed so, from `first` on.
NIBBLE_INLINE size_t direct_columns(const nibble_matrix *w, size_t first, size_t count) {
  const size_t unit = 2 * WIDTH;
  if (!w->storage) return w->number == nibble_f16 ? 0 : count / unit * unit;
#ifdef FEW_UNITS
  // Rows begin with blocks, so that blocks end in all of them at once.
  if (nibble_has_blocks(w) && !(w->block % unit || w->columns % w->block || first % unit)) return count / unit * unit;
#endif
  (void)first;
  return 0;
}

/// Outputs first ... first + count - 1, of which `direct_columns` is true. `scratch` is few_deep * few_wide floats.
TARGET_INLINE void direct_transposed(const int m, const nibble_matrix *w, const float *x, size_t x_stride, size_t first, size_t count,
                                     float *sums, size_t sums_stride, float *scratch) {
  const size_t together = (size_t)direct_sums / (size_t)m / 64 * 64, deepest = m == 1 && !w->storage ? 1 : few_deep;
  const size_t row_bytes = nibble_storage_bytes(w, w->columns);
  for (size_t c = 0; c < count; c += together) {
    size_t n = count - c < together ? count - c : together;
    // As far as memory is slow, in whole rows; or those that follow.
    const size_t ahead = deepest == 1 ? (4096 / nibble_storage_bytes(w, n) + 1) * row_bytes : deepest * row_bytes;
    for (size_t j = 0; j < w->rows; j += deepest) {
      size_t deep = w->rows - j < deepest ? w->rows - j : deepest, element = j * w->columns + first + c;
      const char *rows = (const char *)w->data + nibble_storage_bytes(w, element);
      if (!w->storage && w->number == nibble_bf16) {
        direct_numbers(m, 1, rows, row_bytes, ahead, x + j, x_stride, deep, n, sums + c, sums_stride);
      } else if (!w->storage) {
        direct_numbers(m, 0, rows, row_bytes, ahead, x + j, x_stride, deep, n, sums + c, sums_stride);
      } else {
#ifdef FEW_UNITS
        size_t within = 0;
        for (size_t l = 0; l < deep; l++) {
          size_t block = nibble_divide(element + l * w->columns, w->block, &within);
          FEW_SCALES(w, block, nibble_blocks(w, within + n), scratch + l * few_wide);
        }
        direct_codes(m, w, (const uint8_t *)rows, ahead, scratch, few_wide, within, x + j, x_stride, deep, n, sums + c, sums_stride);
#endif
      }
    }
#ifdef FEW_UNITS
    for (size_t r = 0; w->storage && r < (size_t)m; r++) direct_order(sums + r * sums_stride + c, n);
#endif
  }
  (void)scratch;
}

/// out[0...n] += x[0] * w[0 * few_wide ...] + x[1] * ..., for `deep` rows of W.
TARGET_INLINE void add_rows(const int m, const float *x, size_t x_stride, const float *w, size_t deep, size_t n, float *out,
                            size_t out_stride) {
  for (size_t c = 0; c < n; c += 2 * WIDTH) {
    vec s[nibble_few][2];
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
      for (int v = 0; v < 2; v++) s[r][v] = VEC_LOAD(out + (size_t)r * out_stride + c + (size_t)v * WIDTH);
    for (size_t j = 0; j < deep; j++) {
      vec w0 = VEC_LOAD(w + j * few_wide + c), w1 = VEC_LOAD(w + j * few_wide + c + WIDTH);
#pragma clang loop unroll(full)
      for (int r = 0; r < m; r++) {
        vec factor = VEC_FILL(x[(size_t)r * x_stride + j]);
        s[r][0] = VEC_FMA(w0, factor, s[r][0]);
        s[r][1] = VEC_FMA(w1, factor, s[r][1]);
      }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < m; r++)
#pragma clang loop unroll(full)
      for (int v = 0; v < 2; v++) VEC_STORE(out + (size_t)r * out_stride + c + (size_t)v * WIDTH, s[r][v]);
  }
}

TARGET static void few_transposed(const nibble_matrix *w, const void *packed, size_t m, size_t first, size_t count, int add,
                                  float *dx, size_t stride, void *scratch) {
  const float *x = packed;
  size_t x_stride = few_stride(w->rows), padded = few_stride(count);
  float *piece = scratch, *sums = piece + few_deep * few_wide;
  memset(sums, 0, 4 * m * padded);
  // Outputs that weights are added to as they are read; those of the other outputs are decoded first. The sums are the same.
  size_t direct = direct_columns(w, first, count);
  if (direct) {
#define CALL(m) direct_transposed(m, w, x, x_stride, first, direct, sums, padded, piece)
    FEW_CASES(CALL)
#undef CALL
  }
  for (size_t j = 0; j < w->rows && direct < count; j += few_deep) {
    size_t deep = w->rows - j < few_deep ? w->rows - j : few_deep;
    for (size_t c = direct; c < count; c += few_wide) {
      size_t n = count - c < few_wide ? count - c : few_wide;
      for (size_t l = 0; l < deep; l++) FEW_DECODE(w, (j + l) * w->columns + first + c, n, piece + l * few_wide);
#define CALL(m) add_rows(m, x + j, x_stride, piece, deep, n, sums + c, padded)
      FEW_CASES(CALL)
#undef CALL
    }
  }
  for (size_t i = 0; i < m; i++) {
    float *out = dx + i * stride + first;
    const float *from = sums + i * padded;
    for (size_t c = 0; c < count; c++) out[c] = add ? out[c] + from[c] : from[c];
  }
}
