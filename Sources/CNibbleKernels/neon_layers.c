// The layers compiled for NEON, which every AArch64 has.

#if defined(__aarch64__)

#define NIBBLE_LANES 4
#define LANES_TARGET

#include "attend_loops.h"

const nibble_layers nibble_neon_layers = NIBBLE_LAYERS_TABLE;

#endif
