// The blocks of ggml, llama.cpp's tensor library: a few numbers with their scales beside their codes, one block after another.
//
// Codes are those of ggml's own quantizers, with an importance matrix and without, bit for bit, as its C code says it in IEEE arithmetic:
// float32, every operation rounded, sums in order, nothing fused. Decoded numbers are ggml's too. Every variant gives the same bits.

#ifndef CNIBBLEBLOCKS_H
#define CNIBBLEBLOCKS_H

#include "CNibbleProducts.h"

/// Types of blocks, by their numbers in GGUF files.
typedef enum {
  nibble_q4_0 = 2,
  nibble_q4_1 = 3,
  nibble_q5_0 = 6,
  nibble_q5_1 = 7,
  nibble_q8_0 = 8,
  nibble_q2_k = 10,
  nibble_q3_k = 11,
  nibble_q4_k = 12,
  nibble_q5_k = 13,
  nibble_q6_k = 14,
  nibble_iq4_nl = 20,
  nibble_iq4_xs = 23,
  nibble_mxfp4 = 39
} nibble_ggml;

/// What an encoder met besides ordinary blocks.
typedef struct {
  uint64_t nonfinite;    ///< numbers that come back as none that is finite
  uint64_t finite_lost;  ///< of these, numbers that were
  uint64_t zero_blocks;  ///< blocks of zeros
  uint64_t vanished;     ///< blocks that become zeros, because float16 holds no scale so small
  uint64_t subnormal;    ///< blocks of 32 whose scale has too few digits in float16 for its codes
} nibble_ggml_counts;

/// Numbers in a block; 0 for types that are none of these.
size_t nibble_ggml_numbers(nibble_ggml type);
/// Bytes of a block.
size_t nibble_ggml_bytes(nibble_ggml type);

/// Encodes `blocks` blocks of `x`; `counts` is added to, not reset. A block with a number that is not finite becomes one of which no
/// number is finite.
void nibble_ggml_encode(nibble_variant variant, nibble_ggml type, const float *x, size_t blocks, void *out, nibble_ggml_counts *counts);

/// The same with the importance of each of `columns` columns, finite and not negative, in the search for scales; `x` begins with a row, and
/// the blocks are whole rows. q8_0 and mxfp4 have nothing to search for.
void nibble_ggml_encode_rows(nibble_variant variant, nibble_ggml type, const float *x, const float *importance, size_t columns,
                             size_t blocks, void *out, nibble_ggml_counts *counts);

/// Numbers first ... first + n - 1 of `blocks` as float32, rounded once into `number`, one of f32, f16, bf16.
void nibble_ggml_decode(nibble_variant variant, nibble_ggml type, const void *blocks, size_t first, size_t n, nibble_number number,
                        void *out);

/// Blocks as the storage of a matrix whose rows are whole blocks; NULL for types that are none of these.
const nibble_storage *nibble_ggml_storage(nibble_ggml type);

#endif
