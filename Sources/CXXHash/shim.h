// On x86 the library carries variants of XXH3 for AVX2 and AVX-512 behind `_dispatch` names.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

static inline void xxh3_update(XXH3_state_t *state, const void *bytes, size_t count) {
  XXH3_128bits_update(state, bytes, count);
}
