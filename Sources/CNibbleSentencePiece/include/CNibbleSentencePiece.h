/// libsentencepiece for Swift: C functions that never throw.
#ifndef CNIBBLESENTENCEPIECE_H
#define CNIBBLESENTENCEPIECE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nibble_sentencepiece nibble_sentencepiece;

/// A model from the bytes of a `tokenizer.model`; NULL and a reason in `error` (cut to `error_size`) if the library
/// refuses them. The bytes are not kept.
nibble_sentencepiece *nibble_sentencepiece_open(const uint8_t *bytes, size_t count, char *error, size_t error_size);

void nibble_sentencepiece_close(nibble_sentencepiece *model);

/// Encodes UTF-8 text. Returns 0 and an array of `*count` ids for `nibble_sentencepiece_free`, or -1 and a reason.
int nibble_sentencepiece_encode(
    const nibble_sentencepiece *model, const uint8_t *text, size_t length, int32_t **ids, size_t *count, char *error,
    size_t error_size);

/// Decodes ids. Returns 0 and `*length` bytes for `nibble_sentencepiece_free`, or -1 and a reason.
int nibble_sentencepiece_decode(
    const nibble_sentencepiece *model, const int32_t *ids, size_t count, uint8_t **text, size_t *length, char *error,
    size_t error_size);

void nibble_sentencepiece_free(void *memory);

#ifdef __cplusplus
}
#endif

#endif
