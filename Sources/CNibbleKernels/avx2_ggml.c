// ggml's blocks compiled for AVX2.

#if defined(__x86_64__)

#include "avx2.h"

#define NIBBLE_LANES 8
#define LANES_TARGET AVX2

#include "ggml_search_loops.h"

const nibble_ggml_kernels nibble_avx2_ggml = NIBBLE_GGML_TABLE;

#endif
