// Offsets of NF4 blocks: the search of information calibration quantization (IR-QLoRA), and adding them.

#include "internal.h"

#pragma STDC FP_CONTRACT OFF

enum { longest = 4096 };

void nibble_add_offsets(const float *offsets, float factor, size_t block, float *x, size_t count) {
  for (size_t first = 0; first < count; first += block, offsets++) {
    size_t n = count - first < block ? count - first : block;
    float offset = nibble_load_f32(offsets, 0) * factor;
    for (size_t i = first; i < first + n; i++) nibble_store_f32(x, i, nibble_load_f32(x, i) + offset);
  }
}

/// Shell's method, with Ciura's gaps.
static void sort(float *x, size_t count) {
  static const size_t gaps[] = {1750, 701, 301, 132, 57, 23, 10, 4, 1};
  for (size_t g = 0; g < sizeof gaps / sizeof *gaps; g++) {
    size_t gap = gaps[g];
    for (size_t i = gap; i < count; i++) {
      float value = x[i];
      size_t at = i;
      for (; at >= gap && x[at - gap] > value; at -= gap) x[at] = x[at - gap];
      x[at] = value;
    }
  }
}

static float magnitude(float x) { return x < 0 ? -x : x; }

/// The greatest |x - offset|: rounding keeps the order, so one of the two ends has it.
static float absmax_of(float low, float high, float offset) {
  float a = magnitude(low - offset), b = magnitude(high - offset);
  return a > b ? a : b;
}

/// A block in ascending order, and how many of its elements are at or below each threshold under the offset tried last.
typedef struct {
  float x[longest];
  size_t count;
  size_t ends[16];
  /// The elements on both sides of each end, infinite where there is none; the last threshold is never moved.
  float thresholds[16], below[16], above[16];
  /// Sums of x - median and of its square over the first elements.
  double sum[longest + 1], square[longest + 1];
} sorted_block;

static void set_end(sorted_block *b, int k, size_t end) {
  b->ends[k] = end;
  b->below[k] = end > 0 ? b->x[end - 1] : -__builtin_inff();
  b->above[k] = end < b->count ? b->x[end] : __builtin_inff();
}

/// Brings `ends` up to date: from one candidate to the next, few elements change their code. Says whether any did.
static int find_ends(sorted_block *b, float offset, float inverse) {
  int moved = 0;
  for (int k = 0; k < 16; k++)
    moved |= ((b->below[k] - offset) * inverse > b->thresholds[k]) | !((b->above[k] - offset) * inverse > b->thresholds[k]);
  if (!moved) return 0;
  for (int k = 0; k < 15; k++) {
    size_t end = b->ends[k];
    while (end < b->count && !((b->x[end] - offset) * inverse > b->thresholds[k])) end++;
    while (end > 0 && (b->x[end - 1] - offset) * inverse > b->thresholds[k]) end--;
    set_end(b, k, end);
  }
  return 1;
}

/// The entropy of the codes, negative and without what all histograms have in common.
static int64_t negative_entropy(const sorted_block *b, const int64_t *terms) {
  int64_t sum = 0;
  size_t start = 0;
  for (int k = 0; k < 16; k++) {
    sum += terms[b->ends[k] - start];
    start = b->ends[k];
  }
  return sum;
}

/// What the squared error needs to know of the codes: sums of q * (x - median), q and q * q.
typedef struct {
  double qx, q, qq;
} code_sums;

static code_sums sum_codes(const sorted_block *b) {
  code_sums sums = {0, 0, 0};
  size_t start = 0;
  for (int k = 0; k < 16; k++) {
    size_t end = b->ends[k];
    double q = (double)nibble_float(nibble_nf4_values[k]), n = (double)(end - start);
    sums.qx += q * (b->sum[end] - b->sum[start]);
    sums.q += n * q;
    sums.qq += n * q * q;
    start = end;
  }
  return sums;
}

/// The sum of (x - median - offset - absmax * q)^2, the offset relative to the median.
static double squared_error(const sorted_block *b, const code_sums *sums, double offset, double absmax) {
  double x = b->sum[b->count], xx = b->square[b->count], n = (double)b->count;
  return xx - 2 * (offset * x + absmax * sums->qx) + n * offset * offset + 2 * offset * absmax * sums->q +
         absmax * absmax * sums->qq;
}

static float search_block(const nibble_offset_search *search, sorted_block *b) {
  sort(b->x, b->count);
  float low = b->x[0], high = b->x[b->count - 1], median = b->x[(b->count - 1) / 2];
  float absmax = absmax_of(low, high, median);
  b->sum[0] = b->square[0] = 0;
  for (size_t i = 0; i < b->count && !search->terms; i++) {
    double d = (double)b->x[i] - (double)median;
    b->sum[i + 1] = b->sum[i] + d;
    b->square[i + 1] = b->square[i] + d * d;
  }
  for (int k = 0; k < 15; k++) {
    b->thresholds[k] = nibble_float(nibble_nf4_thresholds[k]);
    set_end(b, k, 0);
  }
  set_end(b, 15, b->count);
  b->thresholds[15] = 0;
  b->below[15] = -__builtin_inff();
  int64_t least_entropy = INT64_MAX, entropy = INT64_MAX;
  double least_error = __builtin_inf();
  code_sums sums = {0, 0, 0};
  long best = -1, middle = (long)search->steps;
  float offset = median;
  for (long k = 0; k <= 2 * middle; k++) {
    float tried = search->factors[k] * absmax + median, a = absmax_of(low, high, tried);
    // Of a block of equal numbers, and close to it, the reciprocal would be infinite.
    int moved = find_ends(b, tried, 1.0f / (a > 1e-38f ? a : 1e-38f)) | (k == 0), is_less, is_equal;
    if (search->terms) {
      if (moved) entropy = negative_entropy(b, search->terms);
      is_less = entropy < least_entropy, is_equal = entropy == least_entropy;
      if (is_less) least_entropy = entropy;
    } else {
      if (moved) sums = sum_codes(b);
      double error = squared_error(b, &sums, (double)tried - (double)median, (double)a);
      is_less = error < least_error, is_equal = error == least_error;
      if (is_less) least_error = error;
    }
    // Of candidates alike, the first, or the one nearest to the median.
    long here = k > middle ? k - middle : middle - k, there = best > middle ? best - middle : middle - best;
    if (!is_less && !(is_equal && search->centre && here < there)) continue;
    best = k;
    offset = tried;
  }
  return offset;
}

void nibble_find_offsets(const nibble_offset_search *search, const float *x, size_t count, size_t block, float *offsets,
                           float *ends, nibble_encode_counts *counts) {
  sorted_block b;
  for (size_t first = 0, at = 0; first < count; first += block, at++) {
    b.count = count - first < block ? count - first : block;
    float low = __builtin_inff(), high = -__builtin_inff();
    size_t nonfinite = 0;
    for (size_t i = 0; i < b.count; i++) {
      float value = b.x[i] = nibble_load_f32(x, first + i);
      nonfinite += (nibble_bits(value) & 0x7fffffffu) >= NIBBLE_INFINITY_BITS;
      low = value < low ? value : low;
      high = value > high ? value : high;
    }
    counts->nonfinite += nonfinite;
    float offset = 0;
    if (!search) offset = nibble_load_f32(offsets, at);
    if (nonfinite) {
      // No offset, and the absmax that the encoder finds.
      uint8_t codes[longest / 2];
      nibble_encode_counts none = {0, 0};
      nibble_encode_block(nibble_nf4, nibble_nearest, b.x, b.count, 1, codes, &high, (float *)0, &none);
      low = high;
    } else if (search && high - low < __builtin_inff()) {
      offset = search_block(search, &b);
    }
    nibble_store_f32(offsets, at, offset);
    nibble_store_f32(ends, 2 * at, low);
    nibble_store_f32(ends, 2 * at + 1, high);
  }
}

size_t nibble_offset_scales(const float *ends, const float *offsets, size_t blocks, float *absmax) {
  size_t zeros = 0;
  for (size_t i = 0; i < blocks; i++) {
    float low = nibble_load_f32(ends, 2 * i), high = nibble_load_f32(ends, 2 * i + 1), offset = nibble_load_f32(offsets, i);
    nibble_store_f32(absmax, i, absmax_of(low, high, offset));
    zeros += low == 0 && high == 0;
  }
  return zeros;
}
