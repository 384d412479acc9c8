// The portable encode kernel: an index, a comparison and a lookup for each element.

#include "portable.h"
#include "portable_code.h"

#pragma STDC FP_CONTRACT OFF

void nibble_max_bits_portable(nibble_number number, const void *x, size_t blocks, size_t block,
                              uint32_t *bits) {
  for (size_t b = 0; b < blocks; b++) {
    size_t first = b * block;
    uint32_t max = 0;
    if (number == nibble_f32) {
      for (size_t i = 0; i < block; i++) {
        // Signed, as the least vector instruction set can only compare these.
        int32_t a = (int32_t)(nibble_load32(x, first + i) & 0x7fffffffu);
        max = a > (int32_t)max ? (uint32_t)a : max;
      }
      bits[b] = max;
      continue;
    }
    int16_t max16 = 0;
    for (size_t i = 0; i < block; i++) {
      int16_t a = (int16_t)(nibble_load16(x, first + i) & 0x7fffu);
      max16 = a > max16 ? a : max16;
    }
    bits[b] = number == nibble_bf16 ? (uint32_t)max16 << 16 : nibble_bits(nibble_from_f16((uint16_t)max16));
  }
}

NIBBLE_INLINE void encode_loop(const nibble_encode_job *job, int nf4, int number, const void *x,
                               size_t blocks, const float *inverse, uint8_t *codes, float *moments) {
  nibble_tables t = nibble_make_tables(nf4, job->cpu_ties);
  size_t i = 0;
  for (size_t b = 0; b < blocks; b++) {
    float ee[2] = {0, 0}, eq[2] = {0, 0}, qq[2] = {0, 0};
    for (size_t end = i + job->block; i < end; i += 2) {
      unsigned code[2];
      for (int l = 0; l < 2; l++) {
        float s = nibble_element(number, x, i + l) * inverse[b];
        unsigned p = nibble_position(&t, nf4, s);
        float q = t.values[p], e = s - q;
        code[l] = t.codes[p];
        ee[l] += e * e;
        eq[l] += e * q;
        qq[l] += q * q;
      }
      codes[i / 2] = (uint8_t)(code[0] << 4 | code[1]);
    }
    if (!moments) continue;
    nibble_store_f32(moments, 3 * b, ee[0] + ee[1]);
    nibble_store_f32(moments, 3 * b + 1, eq[0] + eq[1]);
    nibble_store_f32(moments, 3 * b + 2, qq[0] + qq[1]);
  }
}

void nibble_encode_portable(const nibble_encode_job *job, const void *x, size_t blocks, const float *inverse,
                            uint8_t *codes, float *moments) {
#define CASE(number) \
  case number: \
    if (job->code == nibble_nf4) encode_loop(job, 1, number, x, blocks, inverse, codes, moments); \
    else encode_loop(job, 0, number, x, blocks, inverse, codes, moments); \
    break
  switch (job->number) {
    CASE(nibble_f32);
    CASE(nibble_f16);
    CASE(nibble_bf16);
    default: break;
  }
#undef CASE
}
