// Reading a weight matrix: scales of its blocks, runs of its numbers, whole rows.

#include "decode.h"
#include "products.h"

#pragma STDC FP_CONTRACT OFF

void nibble_matrix_scales(const nibble_matrix *w, size_t first, size_t n, float *scales) {
  if (w->scales) {
    memcpy(scales, (const char *)w->scales + 4 * first, 4 * n);
    return;
  }
  size_t nested = first / w->nested_block, left = w->nested_block - first % w->nested_block;
  for (size_t i = 0; i < n; nested++, left = w->nested_block) {
    size_t end = n - i < left ? n : i + left;
    float scale = nibble_load_f32(w->nested_scales, nested);
    for (; i < end; i++) {
      float product = w->scale_map[w->scale_codes[first + i]] * scale;
      scales[i] = product + w->offset;
    }
  }
}

static void store_number(nibble_number number, float value, void *out, size_t i) {
  if (number == nibble_f32) nibble_store_f32(out, i, value);
  else nibble_store16(out, i, nibble_to_bf16(value));
}

static void run_of_codes(const nibble_kernels *kernels, const nibble_matrix *w, size_t element, size_t n,
                         nibble_number number, char *out) {
  enum { most = 64 };
  size_t size = nibble_number_size(number);
  const uint8_t *codes = w->data;
  float scales[most];
  for (size_t block = element / w->block, within = element % w->block; n;) {
    size_t blocks = (within + n + w->block - 1) / w->block;
    blocks = blocks < most ? blocks : most;
    size_t part = blocks * w->block - within;
    part = part < n ? part : n;
    nibble_matrix_scales(w, block, blocks, scales);
    const float *scale = scales;
    n -= part;
    if (within & 1) {  // the lower half of a byte
      store_number(number, w->codebook[codes[element / 2] & 15] * *scale, out, 0);
      element++, within++, part--, out += size;
    }
    size_t rest = (w->block - within) % w->block;
    rest = rest < part ? rest : part;
    if (within == w->block) scale++;
    if (rest) {
      kernels->decode(w->codebook, codes + element / 2, rest, w->block, scale++, number, out);
      element += rest, part -= rest, out += rest * size;
    }
    if (part) kernels->decode(w->codebook, codes + element / 2, part, w->block, scale, number, out);
    element += part, out += part * size;
    block += blocks, within = 0;
  }
}

void nibble_matrix_run(const nibble_kernels *kernels, const nibble_matrix *w, size_t element, size_t n, nibble_number number,
                       void *out) {
  if (nibble_has_blocks(w)) {
    run_of_codes(kernels, w, element, n, number, out);
    return;
  }
  if (w->storage) {
    w->storage->run(kernels->variant, w, element, n, number, out);
    return;
  }
  const char *from = (const char *)w->data + element * nibble_number_size(w->number);
  if (number == w->number) {
    memcpy(out, from, n * nibble_number_size(number));
  } else if (number == nibble_f32) {
    kernels->widen(w->number, from, n, out);
  } else if (w->number == nibble_f32) {
    kernels->narrow(number, (const float *)(const void *)from, n, out);
  } else {
    float wide[64];
    for (size_t i = 0; i < n; i += 64) {
      size_t part = n - i < 64 ? n - i : 64;
      kernels->widen(w->number, from + 2 * i, part, wide);
      kernels->narrow(number, wide, part, (char *)out + 2 * i);
    }
  }
}

static void run_of_blocks(nibble_variant variant, const nibble_matrix *w, size_t element, size_t n, nibble_number number,
                          void *out) {
  run_of_codes(nibble_kernels_of(variant), w, element, n, number, out);
}

const nibble_storage *nibble_block_storage(void) {
  static const nibble_storage storage = {.together = 2, .size = 1, .blocks = 1, .run = run_of_blocks};
  return &storage;
}

static void run_of_rows(nibble_variant variant, const nibble_matrix *w, size_t element, size_t n, nibble_number number,
                        void *out) {
  if (!n) return;
  const nibble_kernels *kernels = nibble_kernels_of(variant);
  const int8_t *codes = w->data;
  for (size_t row = element / w->columns, column = element % w->columns; n; row++, column = 0) {
    size_t part = w->columns - column;
    part = part < n ? part : n;
    kernels->scale_bytes(codes + element, part, nibble_load_f32(w->scales, row), number, out);
    element += part, n -= part;
    out = (char *)out + part * nibble_number_size(number);
  }
}

const nibble_storage *nibble_row_storage(void) {
  static const nibble_storage storage = {.together = 1, .size = 1, .bytes = 1, .run = run_of_rows};
  return &storage;
}

void nibble_matrix_rows(nibble_variant variant, const nibble_matrix *w, size_t first, size_t count, float *out) {
  nibble_matrix_run(nibble_kernels_of(variant), w, first * w->columns, count * w->columns, nibble_f32, out);
}
