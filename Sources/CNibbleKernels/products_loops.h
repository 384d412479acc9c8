// Packing x, products of a tile and storing its outputs, written once. A variant includes this after defining
//
//   vec, WIDTH           a register of floats and how many
//   VEC_LOAD, VEC_STORE, VEC_ADD
//   VEC_SPREAD(p)        the unit at p in every lane
//   VEC_STEP(c, w, x)    c + w * x, over the numbers of units
//   TURN(v)              transposes v[WIDTH] in place
//   TILE, TARGET         outputs of a tile, the function attribute
//   PAIR                 numbers in a unit; 1: VEC_ROUND(v) to bfloat16, 2: VEC_PAIRS(v, w) makes units of two registers

#include "products.h"

#ifndef TARGET_INLINE
#define TARGET_INLINE static inline __attribute__((always_inline)) TARGET
#endif

/// Rows of outputs and registers of rows of x are constants here: the sums stay in registers. With one register of x every
/// output has two sums, of even and odd units, or the next product would wait for the last.
TARGET_INLINE void tile_loop(const int rows, const int across, const size_t row, const size_t unit, const uint32_t *panel,
                             const float *x, size_t units, int add, float *c, nibble_fetch *ahead) {
  vec sums[TILE][2];
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = (vec){0};
  if (across == 2) {
    nibble_fetch fetch = *ahead;
    for (size_t u = 0; u < units; u++, panel += unit, x += 2 * WIDTH) {
      vec x0 = VEC_LOAD(x), x1 = VEC_LOAD(x + WIDTH);
      nibble_fetch_line(&fetch);
#pragma clang loop unroll(full)
      for (int r = 0; r < rows; r++) {
        vec w = VEC_SPREAD(panel + (size_t)r * row);
        sums[r][0] = VEC_STEP(sums[r][0], w, x0);
        sums[r][1] = VEC_STEP(sums[r][1], w, x1);
      }
    }
    *ahead = fetch;
  } else {
    size_t u = 0;
    for (; u + 2 <= units; u += 2, panel += 2 * unit, x += 2 * WIDTH) {
      vec x0 = VEC_LOAD(x), x1 = VEC_LOAD(x + WIDTH);
#pragma clang loop unroll(full)
      for (int r = 0; r < rows; r++) {
        sums[r][0] = VEC_STEP(sums[r][0], VEC_SPREAD(panel + (size_t)r * row), x0);
        sums[r][1] = VEC_STEP(sums[r][1], VEC_SPREAD(panel + (size_t)r * row + unit), x1);
      }
    }
#pragma clang loop unroll(full)
    for (int r = 0; r < rows; r++) {
      if (u < units) sums[r][0] = VEC_STEP(sums[r][0], VEC_SPREAD(panel + (size_t)r * row), VEC_LOAD(x));
      sums[r][0] = VEC_ADD(sums[r][0], sums[r][1]);
    }
  }
#pragma clang loop unroll(full)
  for (int r = 0; r < rows; r++)
#pragma clang loop unroll(full)
    for (int v = 0; v < across; v++, c += WIDTH) VEC_STORE(c, add ? VEC_ADD(VEC_LOAD(c), sums[r][v]) : sums[r][v]);
}

#define TILE_CASES(along, across, row, unit)                                                                       \
  do {                                                                                                             \
    if (outputs > TILE * 2 / 3) tile_loop(TILE, across, row, unit, panel, x, units, add, c, fetch);                       \
    else if (outputs > TILE / 3) tile_loop(TILE * 2 / 3, across, row, unit, panel, x, units, add, c, fetch);              \
    else tile_loop(TILE / 3, across, row, unit, panel, x, units, add, c, fetch);                                          \
  } while (0)

TARGET static void tile_product(const uint32_t *panel, int along, const void *packed, size_t units, size_t outputs,
                                size_t lanes, int add, float *c, nibble_fetch *fetch) {
  const float *x = packed;
  if (lanes > WIDTH) {
    if (along) TILE_CASES(along, 2, 1, nibble_panel);
    else TILE_CASES(along, 2, nibble_depth, 1);
  } else {
    if (along) TILE_CASES(along, 1, 1, nibble_panel);
    else TILE_CASES(along, 1, nibble_depth, 1);
  }
}

TARGET static void store(const float *c, size_t outputs, size_t lanes, size_t rows, int add, float *y, size_t stride) {
  for (size_t i = 0; i < rows; i += WIDTH) {
    for (size_t j = 0; j < outputs; j += WIDTH) {
      vec v[WIDTH];
      for (int l = 0; l < WIDTH; l++) v[l] = VEC_LOAD(c + (j + (size_t)l) * lanes + i);
      TURN(v);
      float *out = y + i * stride + j;
      size_t high = rows - i < WIDTH ? rows - i : WIDTH, n = outputs - j < WIDTH ? outputs - j : WIDTH;
      for (size_t l = 0; l < high; l++, out += stride) {
        if (n == WIDTH) {
          VEC_STORE(out, add ? VEC_ADD(VEC_LOAD(out), v[l]) : v[l]);
        } else {
          float part[WIDTH];
          VEC_STORE(part, v[l]);
          for (size_t o = 0; o < n; o++) out[o] = add ? out[o] + part[o] : part[o];
        }
      }
    }
  }
}

/// Units of WIDTH * PAIR numbers at x.
TARGET_INLINE vec units_at(const int rounds, const float *x) {
#if PAIR == 2
  (void)rounds;
  return VEC_PAIRS(VEC_LOAD(x), VEC_LOAD(x + WIDTH));
#else
  return rounds ? VEC_ROUND(VEC_LOAD(x)) : VEC_LOAD(x);
#endif
}

TARGET_INLINE vec units_of_part(const int rounds, const float *x, size_t n) {
  float part[WIDTH * PAIR] = {0};
  memcpy(part, x, 4 * n);
  return units_at(rounds, part);
}

TARGET_INLINE void pack_loop(const int rounds, const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  float *out = packed;
  for (size_t from = 0; from < k; from += WIDTH * PAIR, out += WIDTH * lanes) {
    size_t n = k - from < WIDTH * PAIR ? k - from : WIDTH * PAIR, units = (n + PAIR - 1) / PAIR;
    for (size_t i = 0; i < lanes; i += WIDTH) {
      vec v[WIDTH];
      for (size_t l = 0; l < WIDTH; l++) {
        const float *at = x + (i + l) * stride + from;
        v[l] = i + l >= rows ? (vec){0} : n == WIDTH * PAIR ? units_at(rounds, at) : units_of_part(rounds, at, n);
      }
      TURN(v);
      for (size_t l = 0; l < units; l++) VEC_STORE(out + l * lanes + i, v[l]);
    }
  }
}
