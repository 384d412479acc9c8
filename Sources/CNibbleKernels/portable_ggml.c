// ggml's blocks compiled for the baseline of the machine: four lanes.

#define NIBBLE_LANES 4
#define LANES_TARGET

#include "ggml_weighted_loops.h"

const nibble_ggml_kernels nibble_portable_ggml = NIBBLE_GGML_TABLE;
