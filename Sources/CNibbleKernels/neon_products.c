// Products in float32 with NEON; numbers rounded to bfloat16 where that is asked for.

#if defined(__aarch64__)

#include "neon.h"
#include "products.h"

#define WIDTH 4
#define TILE 12
#define TARGET
#define PAIR 1
#define VEC_LOAD(p) vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(const void *)(p)))
#define VEC_STORE(p, v) vst1q_f32(p, v)
#define VEC_ADD(a, b) vaddq_f32(a, b)
#define VEC_SPREAD(p) vdupq_n_f32(nibble_load_f32(p, 0))
#define VEC_STEP(c, w, x) vfmaq_f32(c, w, x)
#define VEC_ROUND(v) round_bf16(v)
#define VEC_MUL(w, x) vmulq_f32(w, x)
#define VEC_FMA(w, x, c) vfmaq_f32(c, w, x)
#define VEC_PART(p, n) part_of(p, n)
#define VEC_FILL(f) vdupq_n_f32(f)
#define TURN(v) turn4(v)
#define FEW_MOST 8
#define FEW_PAIRS 0
#define KERNELS &nibble_neon_kernels
#define FEW_DECODE(w, element, n, out) decode(w, element, n, out)
#define FEW_SCALES(w, first, n, scales) nibble_matrix_scales(w, first, n, scales)

typedef float32x4_t vec;

NIBBLE_INLINE float32x4_t part_of(const void *p, size_t n) {
  float part[4] = {0};
  memcpy(part, p, 4 * n);
  return vld1q_f32(part);
}

/// Rounds to bfloat16, nearest even; NaN stays.
NIBBLE_INLINE float32x4_t round_bf16(float32x4_t x) {
  uint32x4_t bits = vreinterpretq_u32_f32(x);
  uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  uint32x4_t r = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  r = vbslq_u32(vceqq_f32(x, x), r, quiet);
  return vreinterpretq_f32_u32(vandq_u32(r, vdupq_n_u32(0xffff0000u)));
}

/// Transposes 4 registers of 4.
NIBBLE_INLINE void turn4(float32x4_t v[4]) {
  float32x4x2_t a = vtrnq_f32(v[0], v[1]), b = vtrnq_f32(v[2], v[3]);
  v[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
  v[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
  v[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
  v[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

static void decode(const nibble_matrix *w, size_t element, size_t n, void *out) {
  nibble_matrix_run(&nibble_neon_kernels, w, element, n, nibble_f32, out);
}

static void decode_rounded(const nibble_matrix *w, size_t element, size_t n, void *out) {
  float *x = out;
  decode(w, element, n, out);
  for (size_t i = 0; i < n; i++) x[i] = nibble_from_bf16(nibble_to_bf16(x[i]));
}

#include "products_loops.h"
#include "few_loops.h"

static void pack_exact(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(0, x, rows, lanes, k, stride, packed);
}

static void pack_rounded(const float *x, size_t rows, size_t lanes, size_t k, size_t stride, void *packed) {
  pack_loop(1, x, rows, lanes, k, stride, packed);
}

TARGET_INLINE void rows(const int m, const int n, const few_product *few, size_t j, vec sums[][nibble_few]) {
  for (int l = 0; l < n; l++) row_of_any(m, few, j + (size_t)l, sums[l]);
}

const nibble_few_products nibble_neon_few = {
    .most = FEW_MOST, .packed_bytes = few_packed_bytes, .pack = few_pack, .scratch = few_scratch, .multiply = few_multiply,
    .multiply_transposed = few_transposed};

const nibble_products nibble_neon_products[2] = {
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_exact, .decode = decode, .tile_product = tile_product,
     .store = store, .few = &nibble_neon_few},
    {.pair = 1, .width = WIDTH, .tile = TILE, .pack = pack_rounded, .decode = decode_rounded, .tile_product = tile_product,
     .store = store, .few = &nibble_neon_few},
};

#endif
