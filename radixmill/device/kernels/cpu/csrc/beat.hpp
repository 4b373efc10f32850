// How another process sees that we get on, in the middle of an op: a word of shared memory that is counted up.
#pragma once
#include <cstdint>

namespace radixmill {

// Any thread may, at any time; null: nobody looks. Inlined: units for different instruction sets may not share a copy.
__attribute__((always_inline)) static inline void beat(uint64_t* word) {
  if (word) __atomic_fetch_add(word, 1, __ATOMIC_RELAXED);
}

}  // namespace radixmill
