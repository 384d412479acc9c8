// What the decoders share: the table of a block, and the elements a vector loop leaves over.

#ifndef NIBBLE_DECODE_H
#define NIBBLE_DECODE_H

#include "internal.h"

/// table[c] = codebook[c] * absmax in `number`; 16-bit formats use the first 32 bytes.
typedef union {
  float f32[16];
  uint16_t u16[16];
} nibble_table;

NIBBLE_INLINE unsigned nibble_code_at(const uint8_t *codes, size_t i) {
  return i & 1 ? codes[i / 2] & 15u : codes[i / 2] >> 4;
}

NIBBLE_INLINE void nibble_decode_rest16(const uint16_t *table, const uint8_t *codes, size_t from, size_t count,
                                        void *out) {
  for (size_t i = from; i < count; i++) nibble_store16(out, i, table[nibble_code_at(codes, i)]);
}

NIBBLE_INLINE void nibble_decode_rest32(const float *table, const uint8_t *codes, size_t from, size_t count,
                                        void *out) {
  for (size_t i = from; i < count; i++) nibble_store_f32(out, i, table[nibble_code_at(codes, i)]);
}

#endif
