// ggml's blocks compiled for NEON.

#if defined(__aarch64__)

#define NIBBLE_LANES 4
#define LANES_TARGET

#include "ggml_search_loops.h"

const nibble_ggml_kernels nibble_neon_ggml = NIBBLE_GGML_TABLE;

#endif
