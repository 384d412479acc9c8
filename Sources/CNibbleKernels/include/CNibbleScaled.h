// Numbers of 4 and 8 bits with an exponent, and scales beside them: MXFP4 and FP8, as checkpoints of other programs have them. Nothing writes them.

#ifndef CNIBBLESCALED_H
#define CNIBBLESCALED_H

#include "CNibbleProducts.h"

/// out = 2^(code - 127), E8M0; 255 is NaN.
void nibble_powers_of_two(const uint8_t *codes, size_t count, float *out);

/// E2M1 codes two a byte, the first in the low half, each 32 with an E8M0 scale: `n` numbers from `element` on. `codes` and `scales` are those of
/// element 0.
void nibble_mxfp4_decode(const uint8_t *codes, const uint8_t *scales, size_t element, size_t n, float *out);

/// The scales of a matrix whose tiles of height x width share one each; those at the right and lower edge may be smaller.
typedef struct {
  const float *scales;
  size_t columns;   ///< of the matrix
  size_t height, width;
} nibble_fp8_tiles;

/// E4M3 (without infinities) times the scale of its tile, rounded to float32: `n` numbers from `element` on. `codes` are those of element 0.
void nibble_fp8_decode(const uint8_t *codes, nibble_fp8_tiles tiles, size_t element, size_t n, float *out);

/// Of a matrix with `data`, `scale_codes`.
const nibble_storage *nibble_mxfp4_storage(void);

/// Of a matrix with `data`, `scales`, and tiles of `nested_block` rows and `block` columns.
const nibble_storage *nibble_fp8_storage(void);

#endif
