// ggml's blocks: the entries, which choose a variant, cut runs at blocks, and say what was lost.

#include "ggml.h"

#include "products.h"

nibble_ggml_layout nibble_ggml_layout_of(nibble_ggml type) {
  switch (type) {
    case nibble_q4_0: return (nibble_ggml_layout){32, 18, 0, -1};
    case nibble_q4_1: return (nibble_ggml_layout){32, 20, 0, 2};
    case nibble_q5_0: return (nibble_ggml_layout){32, 22, 0, -1};
    case nibble_q5_1: return (nibble_ggml_layout){32, 24, 0, 2};
    case nibble_q8_0: return (nibble_ggml_layout){32, 34, 0, -1};
    case nibble_q2_k: return (nibble_ggml_layout){256, 84, 80, 82};
    case nibble_q3_k: return (nibble_ggml_layout){256, 110, 108, -1};
    case nibble_q4_k: return (nibble_ggml_layout){256, 144, 0, 2};
    case nibble_q5_k: return (nibble_ggml_layout){256, 176, 0, 2};
    case nibble_q6_k: return (nibble_ggml_layout){256, 210, 208, -1};
    case nibble_iq4_nl: return (nibble_ggml_layout){32, 18, 0, -1};
    case nibble_iq4_xs: return (nibble_ggml_layout){256, 136, 0, -1};
    case nibble_mxfp4: return (nibble_ggml_layout){32, 17, -1, -1};
  }
  return (nibble_ggml_layout){0, 0, -1, -1};
}

size_t nibble_ggml_numbers(nibble_ggml type) { return nibble_ggml_layout_of(type).numbers; }
size_t nibble_ggml_bytes(nibble_ggml type) { return nibble_ggml_layout_of(type).bytes; }

static const nibble_ggml_kernels *kernels_of(nibble_variant variant) {
  if (!nibble_variant_runs(variant)) return &nibble_portable_ggml;
  switch (variant) {
#if defined(__x86_64__)
    case nibble_avx2: return &nibble_avx2_ggml;
    case nibble_avx512bf16:
    case nibble_avx512: return &nibble_avx512_ggml;
#elif defined(__aarch64__)
    case nibble_neon: return &nibble_neon_ggml;
#endif
    default: return &nibble_portable_ggml;
  }
}

void nibble_ggml_encode(nibble_variant variant, nibble_ggml type, const float *x, size_t blocks, void *out, nibble_ggml_counts *counts) {
  kernels_of(variant)->encode(type, x, blocks, out, counts);
}

void nibble_ggml_encode_rows(nibble_variant variant, nibble_ggml type, const float *x, const float *importance, size_t columns,
                             size_t blocks, void *out, nibble_ggml_counts *counts) {
  const nibble_ggml_kernels *kernels = kernels_of(variant);
  if (!importance || type == nibble_q8_0 || type == nibble_mxfp4) kernels->encode(type, x, blocks, out, counts);
  else kernels->encode_rows(type, x, importance, columns, blocks, out, counts);
}

static void narrowed(nibble_variant variant, nibble_number number, const float *x, size_t n, void *out) {
  if (number == nibble_f32) memcpy(out, x, 4 * n);
  else nibble_narrow(variant, number, x, n, out);
}

void nibble_ggml_decode(nibble_variant variant, nibble_ggml type, const void *blocks, size_t first, size_t n, nibble_number number,
                        void *out) {
  const nibble_ggml_kernels *kernels = kernels_of(variant);
  const nibble_ggml_layout layout = nibble_ggml_layout_of(type);
  const size_t size = nibble_number_size(number);
  if (!layout.numbers) return;
  const uint8_t *block = (const uint8_t *)blocks + first / layout.numbers * layout.bytes;
  float wide[nibble_ggml_most];
  for (size_t within = first % layout.numbers; n; within = 0) {
    size_t whole = within ? 0 : number == nibble_f32 ? n / layout.numbers : n >= layout.numbers;
    size_t part = whole * layout.numbers;
    if (whole && number == nibble_f32 && !((uintptr_t)out & 3)) {
      kernels->decode(type, block, whole, out);
    } else {
      whole = 1, part = layout.numbers - within;
      part = part < n ? part : n;
      kernels->decode(type, block, 1, wide);
      narrowed(variant, number, wide + within, part, out);
    }
    block += whole * layout.bytes;
    out = (char *)out + part * size;
    n -= part;
  }
}

// One storage a type: `run` has no other way to know it.
#define NIBBLE_STORAGE(type, numbers, bytes_)                                                           \
  static void run_of_##type(nibble_variant variant, const nibble_matrix *w, size_t element, size_t n,   \
                            nibble_number number, void *out) {                                          \
    nibble_ggml_decode(variant, nibble_##type, w->data, element, n, number, out);                       \
  }                                                                                                     \
  static const nibble_storage storage_of_##type = {.together = numbers, .size = bytes_, .run = run_of_##type};

NIBBLE_STORAGE(q4_0, 32, 18)
NIBBLE_STORAGE(q4_1, 32, 20)
NIBBLE_STORAGE(q5_0, 32, 22)
NIBBLE_STORAGE(q5_1, 32, 24)
NIBBLE_STORAGE(q8_0, 32, 34)
NIBBLE_STORAGE(q2_k, 256, 84)
NIBBLE_STORAGE(q3_k, 256, 110)
NIBBLE_STORAGE(q4_k, 256, 144)
NIBBLE_STORAGE(q5_k, 256, 176)
NIBBLE_STORAGE(q6_k, 256, 210)
NIBBLE_STORAGE(iq4_nl, 32, 18)
NIBBLE_STORAGE(iq4_xs, 256, 136)
NIBBLE_STORAGE(mxfp4, 32, 17)

const nibble_storage *nibble_ggml_storage(nibble_ggml type) {
  switch (type) {
    case nibble_q4_0: return &storage_of_q4_0;
    case nibble_q4_1: return &storage_of_q4_1;
    case nibble_q5_0: return &storage_of_q5_0;
    case nibble_q5_1: return &storage_of_q5_1;
    case nibble_q8_0: return &storage_of_q8_0;
    case nibble_q2_k: return &storage_of_q2_k;
    case nibble_q3_k: return &storage_of_q3_k;
    case nibble_q4_k: return &storage_of_q4_k;
    case nibble_q5_k: return &storage_of_q5_k;
    case nibble_q6_k: return &storage_of_q6_k;
    case nibble_iq4_nl: return &storage_of_iq4_nl;
    case nibble_iq4_xs: return &storage_of_iq4_xs;
    case nibble_mxfp4: return &storage_of_mxfp4;
  }
  return 0;
}
