// Which variants this machine runs.

#include "internal.h"

#if defined(__x86_64__)
static int runs_avx2(void) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static int runs_avx512(void) {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static int runs_avx512bf16(void) { return runs_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

int nibble_variant_runs(nibble_variant variant) {
  switch (variant) {
    case nibble_portable: return 1;
#if defined(__x86_64__)
    case nibble_avx2: return runs_avx2();
    case nibble_avx512: return runs_avx512();
    case nibble_avx512bf16: return runs_avx512bf16();
#elif defined(__aarch64__)
    case nibble_neon: return 1;
#endif
    default: return 0;
  }
}
