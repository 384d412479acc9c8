// ggml's blocks compiled for AVX-512.

#if defined(__x86_64__)

#include "avx512.h"

#define NIBBLE_LANES 16
#define LANES_TARGET AVX512

#include "ggml_search_loops.h"

const nibble_ggml_kernels nibble_avx512_ggml = NIBBLE_GGML_TABLE;

#endif
