// What the NEON files share. NEON is part of every AArch64, so no target attributes are needed.

#ifndef NIBBLE_NEON_H
#define NIBBLE_NEON_H

#include <arm_neon.h>

#include "internal.h"

void nibble_max_bits_neon(nibble_number number, const void *x, size_t blocks, size_t block, uint32_t *bits);
void nibble_encode_neon(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                        uint8_t *codes, float *moments);
void nibble_search_neon(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales);

#endif
