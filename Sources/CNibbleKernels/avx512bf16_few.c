// Products of few rows with the bfloat16 dot product: two to eight rows; one row stays in float32, memory being slower.

#if defined(__x86_64__)

#include "avx512bf16.h"

#endif
