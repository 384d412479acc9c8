// The portable kernels.

#ifndef NIBBLE_PORTABLE_H
#define NIBBLE_PORTABLE_H

#include "internal.h"

void nibble_max_bits_portable(nibble_number number, const void *x, size_t blocks, size_t block,
                              uint32_t *bits);
void nibble_encode_portable(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                            uint8_t *codes, float *moments);
void nibble_decode_portable(const float codebook[16], const uint8_t *codes, size_t count, size_t block,
                            const float *absmax, nibble_number number, void *out);
void nibble_search_portable(nibble_code code, int both_signs, const float *y, size_t blocks, size_t block, float *scales);

#endif
