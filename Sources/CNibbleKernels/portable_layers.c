// The layers compiled for the baseline of the machine: four lanes.

#define NIBBLE_LANES 4
#define LANES_TARGET

#include "attend_loops.h"

const nibble_layers nibble_portable_layers = NIBBLE_LAYERS_TABLE;
