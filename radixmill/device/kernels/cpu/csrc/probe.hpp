// How fast this machine reads memory and multiplies: short loops, for `radixmill doctor`. No result depends on them.
#pragma once
#include <cstddef>
#include <cstdint>

#include "pool.hpp"

namespace radixmill {

constexpr int kChains = 12;  // independent sums: enough to hide the latency of a multiply-add

// One instruction set's loops. Their results are there so that nothing is optimised away.
struct ProbeLoops {
  const char* isa;
  uint64_t (*read)(const uint64_t* words, size_t count);
  float (*floats)(int rounds);
  int32_t (*int8)(int rounds);
  int float_ops, int8_ops;  // of one round; a multiply-add is two
};

const ProbeLoops& portable_probe();
#ifdef RADIXMILL_AVX2
const ProbeLoops& avx2_probe();
#endif
#ifdef RADIXMILL_AVX512
const ProbeLoops& avx512_probe();
#endif

// Per second, by all threads of the pool: bytes read, float32 operations, int8 operations.
struct Peaks {
  double read, floats, int8;
};

// `bytes` should be more than the last cache holds. Takes about `seconds`, and the time to fill so many bytes. Throws
// std::bad_alloc.
Peaks probe(const ProbeLoops& loops, Pool& pool, size_t bytes, double seconds);

}  // namespace radixmill
