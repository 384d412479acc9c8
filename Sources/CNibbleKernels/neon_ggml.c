// ggml's blocks compiled for NEON.

#if defined(__aarch64__)

#include "neon.h"

#define NIBBLE_OWN_LEVELS

NIBBLE_INLINE void nibble_look_up(const int8_t *levels, const uint8_t *codes, int8_t *out) {
  vst1q_s8(out, vqtbl1q_s8(vld1q_s8(levels), vld1q_u8(codes)));
}

#define NIBBLE_LANES 4
#define LANES_TARGET

#include "ggml_weighted_loops.h"

const nibble_ggml_kernels nibble_neon_ggml = NIBBLE_GGML_TABLE;

#endif
