// Which processor this is, and how fast its bfloat16 dot product is beside its multiply-add.

#include "internal.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <string.h>
#include <time.h>

nibble_processor nibble_this_processor(void) {
  nibble_processor processor = {{0}, {0}, 0, 0};
  unsigned a, b, c, d, most;
  if (!__get_cpuid(0, &most, &b, &c, &d)) return processor;
  memcpy(processor.vendor, &b, 4), memcpy(processor.vendor + 4, &d, 4), memcpy(processor.vendor + 8, &c, 4);
  if (most >= 1 && __get_cpuid(1, &a, &b, &c, &d)) {
    unsigned family = a >> 8 & 15;
    processor.family = family == 15 ? family + (a >> 20 & 255) : family;
    processor.model = (a >> 4 & 15) | (family == 6 || family == 15 ? a >> 12 & 0xf0 : 0);
  }
  for (unsigned part = 0; part < 3; part++) {
    if (!__get_cpuid(0x80000002 + part, &a, &b, &c, &d)) break;
    unsigned text[4] = {a, b, c, d};
    memcpy(processor.name + 16 * part, text, 16);
  }
  return processor;
}

// In assembly, so that what is measured is the same in builds without optimization. Sixteen sums, more than either instruction
// takes cycles, of products of zeros.
#define SIXTEEN(instruction)                                                                                           \
  instruction(0) instruction(1) instruction(2) instruction(3) instruction(4) instruction(5) instruction(6)             \
      instruction(7) instruction(8) instruction(9) instruction(10) instruction(11) instruction(12) instruction(13)     \
          instruction(14) instruction(15)
#define CLEAR(n) "vpxord %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n\t"
#define MULTIPLY_ADD(n) "vfmadd231ps %%zmm16, %%zmm17, %%zmm" #n "\n\t"
#define DOT_PRODUCT(n) "vdpbf16ps %%zmm16, %%zmm17, %%zmm" #n "\n\t"
#define REPEAT(instruction)                                                                                            \
  do {                                                                                                                 \
    long rounds = 1000;                                                                                                \
    __asm__ volatile(SIXTEEN(CLEAR) CLEAR(16) CLEAR(17) "1:\n\t" SIXTEEN(instruction) "decq %0\n\tjnz 1b"              \
                     : "+r"(rounds)                                                                                    \
                     :                                                                                                 \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",  \
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17");                                 \
  } while (0)

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16"))) static double measured_rate(void) {
  double plain = 1, dot = 1;
  // The least of each counts: whatever else happens to a round makes it slower. In turns, as the clock may rise or fall.
  for (int round = 0; round < 15; round++) {
    double start = now();
    REPEAT(MULTIPLY_ADD);
    double between = now();
    REPEAT(DOT_PRODUCT);
    double end = now();
    if (between - start < plain) plain = between - start;
    if (end - between < dot) dot = end - between;
  }
  return 2 * plain / dot;
}

double nibble_dot_product_rate(void) { return nibble_variant_runs(nibble_avx512bf16) ? measured_rate() : 0; }

#else

nibble_processor nibble_this_processor(void) { return (nibble_processor){{0}, {0}, 0, 0}; }

double nibble_dot_product_rate(void) { return 0; }

#endif
