// Products: which variant, and the blocking that all but the portable one share.
//
// A panel of outputs is decoded for a stretch of the sum and multiplied with all rows of x, tile by tile: the tile of x
// stays in the first cache, the panel in the second. How a sum is cut depends only on its length, so an output does not
// depend on the panel it fell into.

#include "products.h"

static const nibble_products *products_of(nibble_variant variant, nibble_compute compute) {
  if (!nibble_variant_runs(variant)) return NULL;
  switch (variant) {
#if defined(__x86_64__)
    case nibble_avx2: return &nibble_avx2_products[compute];
    case nibble_avx512bf16:
      if (compute == nibble_compute_bf16) return &nibble_avx512bf16_product;
      return &nibble_avx512_products[compute];
    case nibble_avx512: return &nibble_avx512_products[compute];
#elif defined(__aarch64__)
    case nibble_neon: return &nibble_neon_products[compute];
#endif
    default: return NULL;
  }
}

NIBBLE_INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }
NIBBLE_INLINE size_t rounded_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

NIBBLE_INLINE size_t units_of(const nibble_products *p, size_t k) { return (k + p->pair - 1) / p->pair; }
NIBBLE_INLINE size_t lanes_of(const nibble_products *p, size_t m) { return rounded_up(m, p->width); }

size_t nibble_packed_bytes(nibble_variant variant, nibble_compute compute, size_t m, size_t k) {
  const nibble_products *p = products_of(variant, compute);
  if (!p) return rounded_up(nibble_portable_packed_bytes(m, k), 64);
  if (m <= p->few->most) return p->few->packed_bytes(m, k);
  return rounded_up(lanes_of(p, m) * units_of(p, k) * 4, 64);
}

void nibble_pack_rows(nibble_variant variant, nibble_compute compute, const float *x, size_t m, size_t k, size_t stride,
                      void *packed) {
  const nibble_products *p = products_of(variant, compute);
  if (!p) {
    nibble_portable_pack(compute, x, m, k, stride, packed);
  } else if (m <= p->few->most) {
    p->few->pack(x, m, k, stride, packed);
  } else {
    size_t lanes = lanes_of(p, m);
    for (size_t i = 0; i < m; i += 2 * p->width)
      p->pack(x + i * stride, least(m - i, 2 * p->width), least(lanes - i, 2 * p->width), k, stride,
              (char *)packed + 4 * i * units_of(p, k));
  }
}

enum { panel_bytes = 4 * nibble_panel * nibble_depth };

size_t nibble_multiply_scratch(nibble_variant variant, nibble_compute compute, const nibble_matrix *w, size_t m,
                               size_t count) {
  const nibble_products *p = products_of(variant, compute);
  if (!p) return rounded_up(nibble_portable_scratch(w, m), 64);
  if (m <= p->few->most) return rounded_up(p->few->scratch(w, m, count), 64);
  size_t lanes = least(lanes_of(p, m), nibble_rows_at_once);
  return panel_bytes + 4 * nibble_panel * lanes;
}

/// Decodes units u ... u + n - 1 of outputs first ... first + count - 1. What no output needs stays as it is: nothing reads it
/// but outputs that are never stored.
static void fill_panel(const nibble_products *p, const nibble_matrix *w, int transposed, size_t first, size_t count, size_t u,
                       size_t n, uint32_t *panel) {
  size_t inner = transposed ? w->rows : w->columns, from = u * p->pair, numbers = least(inner - from, n * p->pair);
  if (!transposed) {
    for (size_t j = 0; j < count; j++) {
      uint32_t *out = panel + j * nibble_depth;
      if (numbers % p->pair) out[n - 1] = 0;
      p->decode(w, (first + j) * w->columns + from, numbers, out);
    }
  } else {
    for (size_t j = 0; j < n; j++) {
      size_t row = from + j * p->pair;
      uint32_t *out = panel + j * nibble_panel;
      if (p->pair == 1) p->decode(w, row * w->columns + first, count, out);
      else p->decode_pair(w, row, least(inner - row, 2), first, count, out);
    }
  }
}

/// Where in W a panel lies: outputs and units of the sum.
typedef struct {
  size_t first, outputs, unit, units;
} stretch;

/// What fetches a panel that is decoded next, or nothing.
static nibble_fetch fetch_of(const nibble_products *p, const nibble_matrix *w, int transposed, const stretch *next) {
  static const char nothing[64];
  nibble_fetch fetch = {.at = (uintptr_t)nothing, .end = UINTPTR_MAX};
  if (!next->outputs) return fetch;
  size_t inner = transposed ? w->rows : w->columns, from = next->unit * p->pair;
  size_t numbers = least(inner - from, next->units * p->pair);
  size_t row = transposed ? from : next->first, column = transposed ? next->first : from;
  size_t stride = nibble_storage_bytes(w, w->columns), bytes = nibble_storage_bytes(w, transposed ? next->outputs : numbers);
  fetch.at = (uintptr_t)w->data + nibble_storage_bytes(w, row * w->columns + column);
  fetch.end = fetch.at + bytes, fetch.step = 64, fetch.stride = stride, fetch.skip = stride - bytes;
  fetch.pieces = transposed ? numbers : next->outputs;
  return fetch;
}

static void multiply(const nibble_products *p, const nibble_matrix *w, int transposed, const char *packed, size_t m,
                     size_t first, size_t count, int add, float *y, size_t stride, void *scratch) {
  const size_t units = units_of(p, transposed ? w->rows : w->columns), lanes = lanes_of(p, m), wide = 2 * p->width;
  uint32_t *panel = scratch;
  float *sums = (float *)((char *)scratch + panel_bytes);
  for (size_t m0 = 0; m0 < m; m0 += nibble_rows_at_once) {
    size_t end = least(lanes, m0 + nibble_rows_at_once);
    stretch now = {first, least(count, nibble_panel), 0, least(units, nibble_depth)};
    while (now.outputs) {
      stretch next = now;
      next.unit += now.units;
      if (next.unit >= units) {
        next.unit = 0, next.first += now.outputs;
        next.outputs = least(first + count - next.first, nibble_panel);
      }
      next.units = least(units - next.unit, nibble_depth);
      fill_panel(p, w, transposed, now.first, now.outputs, now.unit, now.units, panel);
      size_t parts = (now.outputs + p->tile - 1) / p->tile;
      nibble_fetch fetch = fetch_of(p, w, transposed, &next);
      for (size_t i = m0; i < end; i += wide) {
        size_t across = least(end - i, wide);
        const char *x = packed + 4 * (i * units + across * now.unit);
        float *c = sums + (i - m0) * nibble_panel;
        for (size_t part = 0; part < parts; part++) {
          size_t j = part * p->tile;
          for (size_t u = 0; across <= p->width && fetch.step && u < now.units; u++) nibble_fetch_line(&fetch);
          p->tile_product(panel + j * (transposed ? 1 : nibble_depth), transposed, x, now.units, least(now.outputs - j, p->tile),
                          across, now.unit > 0, c + j * across, &fetch);
        }
        if (now.unit + now.units == units)
          p->store(c, now.outputs, across, least(m - i, across), add, y + i * stride + now.first, stride);
      }
      now = next;
    }
  }
}

void nibble_multiply(nibble_variant variant, nibble_compute compute, const nibble_matrix *w, const void *packed, size_t m,
                     size_t first, size_t count, int add, float *y, size_t stride, void *scratch) {
  const nibble_products *p = products_of(variant, compute);
  if (!p) nibble_portable_multiply(compute, w, packed, m, first, count, add, y, stride, scratch);
  else if (m <= p->few->most) p->few->multiply(w, packed, m, first, count, add, y, stride, scratch);
  else multiply(p, w, 0, packed, m, first, count, add, y, stride, scratch);
}

void nibble_multiply_transposed(nibble_variant variant, nibble_compute compute, const nibble_matrix *w, const void *packed,
                                size_t m, size_t first, size_t count, int add, float *dx, size_t stride, void *scratch) {
  const nibble_products *p = products_of(variant, compute);
  if (!p) nibble_portable_multiply_transposed(compute, w, packed, m, first, count, add, dx, stride, scratch);
  else if (m <= p->few->most) p->few->multiply_transposed(w, packed, m, first, count, add, dx, stride, scratch);
  else multiply(p, w, 1, packed, m, first, count, add, dx, stride, scratch);
}

size_t nibble_multiply_step(nibble_variant variant, nibble_compute compute, size_t m) {
  const nibble_products *p = products_of(variant, compute);
  return !p || m <= p->few->most ? 64 : nibble_panel;
}
