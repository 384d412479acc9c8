// The optimizers compiled for the baseline of the machine.

#define WIDE_TARGET

#include "optimizers_loops.h"

const nibble_optimizers nibble_portable_optimizers = NIBBLE_OPTIMIZERS_TABLE;
