// The optimizers compiled for AVX2.

#if defined(__x86_64__)

#include "avx2.h"

#define WIDE_TARGET AVX2

#include "optimizers_loops.h"

const nibble_optimizers nibble_avx2_optimizers = NIBBLE_OPTIMIZERS_TABLE;

#endif
