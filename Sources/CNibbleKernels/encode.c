// The encoders' outer loop. Ordinary blocks go to the variant's kernel, a group at a time so that their
// reciprocals are computed together; all others go to the one literal version in encode_block.c, which makes
// the variants alike in every corner case.

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { group_elements = 4096, group_blocks = group_elements / 32 };

// From the least normal float to 2^126 the reciprocal is normal too, and all rules agree.
static const uint32_t ordinary_low = 0x00800000u, ordinary_span = 0x7e800000u - 0x00800000u;

static int is_ordinary(uint32_t bits) { return (bits & 0x7fffffffu) - ordinary_low <= ordinary_span; }

typedef struct {
  const nibble_kernels *kernels;
  nibble_encode_job job;
  nibble_rules rules;
  const float *scales;  ///< NULL: each block's own absmax
} encoder;

static void widen_elements(int number, const void *x, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) out[i] = nibble_element(number, x, i);
}

static void encode_one(const encoder *e, int number, const void *x, size_t count, float scale, uint8_t *codes,
                       float *absmax, float *moments, nibble_encode_counts *counts) {
  float values[group_elements];
  widen_elements(number, x, count, values);
  if (e->scales)
    nibble_encode_block_scaled(e->job.code, values, count, scale, codes, moments, counts);
  else
    nibble_encode_block(e->job.code, e->rules, values, count, count == e->job.block, codes, absmax, moments,
                        counts);
}

/// `blocks` full blocks from `x`, in the job's number format.
static void encode_group(const encoder *e, const void *x, size_t blocks, const float *scales, uint8_t *codes,
                         float *absmax, float *moments, nibble_encode_counts *counts) {
  size_t block = e->job.block, bytes = block * nibble_number_size(e->job.number);
  uint32_t bits[group_blocks], others = 0;
  float inverse[group_blocks];
  uint8_t slow[group_blocks];
  e->kernels->max_bits(e->job.number, x, blocks, block, bits);
  for (size_t b = 0; b < blocks; b++) {
    float scale = scales ? nibble_load_f32(scales, b) : nibble_float(bits[b]);
    int fast = is_ordinary(nibble_bits(scale)) && (!scales || bits[b] < 0x7f800000u);
    inverse[b] = 1.0f / (fast ? scale : 1.0f);
    if (absmax) nibble_store_f32(absmax, b, scale);
    slow[b] = !fast;
    others |= !fast;
    if (scales && bits[b] == 0) counts->zero_blocks += fast;
  }
  // The kernel runs over the other blocks as well; what it leaves there is overwritten.
  e->kernels->encode(&e->job, x, blocks, inverse, codes, moments);
  if (!others) return;
  for (size_t b = 0; b < blocks; b++) {
    if (!slow[b]) continue;
    if (!scales && bits[b] == 0) {
      nibble_encode_zeros(e->job.code, e->rules, block, codes + b * block / 2, moments ? moments + 3 * b : 0);
      counts->zero_blocks++;
      continue;
    }
    encode_one(e, e->job.number, (const char *)x + b * bytes, block, scales ? nibble_load_f32(scales, b) : 0,
               codes + b * block / 2, absmax ? absmax + b : 0, moments ? moments + 3 * b : 0, counts);
  }
}

static void encode_all(encoder *e, nibble_number number, const void *x, size_t count, uint8_t *codes,
                       float *absmax, float *moments, nibble_encode_counts *counts) {
  size_t block = e->job.block, size = nibble_number_size(number);
  size_t full = count / block, group = block % 32 ? 1 : group_elements / block;
  float values[group_elements];
  e->job.number = number == nibble_f64 ? nibble_f32 : number;
  for (size_t b = 0; b < full; b += group) {
    size_t blocks = full - b < group ? full - b : group;
    const void *source = (const char *)x + b * block * size;
    const float *scales = e->scales ? e->scales + b : 0;
    uint8_t *to = codes + b * block / 2;
    float *maxima = absmax ? absmax + b : 0, *sums = moments ? moments + 3 * b : 0;
    if (block % 32) {
      encode_one(e, number, source, block, scales ? nibble_load_f32(scales, 0) : 0, to, maxima, sums, counts);
      continue;
    }
    if (number == nibble_f64) {
      widen_elements(number, source, blocks * block, values);
      source = values;
    }
    encode_group(e, source, blocks, scales, to, maxima, sums, counts);
  }
  size_t done = full * block;
  if (done < count)
    encode_one(e, number, (const char *)x + done * size, count - done,
               e->scales ? nibble_load_f32(e->scales, full) : 0, codes + done / 2, absmax ? absmax + full : 0,
               moments ? moments + 3 * full : 0, counts);
}

void nibble_encode(nibble_variant variant, nibble_code code, nibble_rules rules, nibble_number number,
                   const void *x, size_t count, size_t block, uint8_t *codes, float *absmax, float *moments,
                   nibble_encode_counts *counts) {
  encoder e = {.kernels = nibble_kernels_of(variant), .rules = rules};
  e.job = (nibble_encode_job){.code = code, .cpu_ties = rules == nibble_cpu, .block = block};
  encode_all(&e, number, x, count, codes, absmax, moments, counts);
}

void nibble_encode_scaled(nibble_variant variant, nibble_code code, nibble_number number, const void *x,
                          size_t count, size_t block, const float *scales, uint8_t *codes, float *moments,
                          nibble_encode_counts *counts) {
  encoder e = {.kernels = nibble_kernels_of(variant), .rules = nibble_nearest, .scales = scales};
  e.job = (nibble_encode_job){.code = code, .clamp = 1, .block = block};
  encode_all(&e, number, x, count, codes, 0, moments, counts);
}
