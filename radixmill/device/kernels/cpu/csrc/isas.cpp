#include "isas.hpp"

#include <stdexcept>

#ifdef RADIXMILL_AVXVNNI
#include <cpuid.h>
#endif
#if defined(RADIXMILL_NEON_DOTPROD) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace radixmill {

namespace {

bool always() { return true; }

#ifdef RADIXMILL_AVX2
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

#ifdef RADIXMILL_AVXVNNI
bool has_avxvnni() {
  unsigned a = 0, b, c, d;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

#ifdef RADIXMILL_AVX512
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

#ifdef RADIXMILL_NEON_DOTPROD
bool has_dotprod() {
#if defined(__APPLE__)
  return true;  // every Mac with an ARM processor
#elif defined(__linux__)
  constexpr unsigned long asimddp = 1ul << 20;  // HWCAP_ASIMDDP, which older headers lack
  return getauxval(AT_HWCAP) & asimddp;
#else
  return false;
#endif
}
#endif

struct Isa {
  const char* name;
  bool (*here)();
  const Kernels& (*kernels)();
};

// The best first.
constexpr Isa kIsas[] = {
#ifdef RADIXMILL_AVX512
    {"avx512bf16", has_avx512bf16, avx512bf16_kernels},
    {"avx512", has_avx512, avx512_kernels},
#endif
#ifdef RADIXMILL_AVXVNNI
    {"avxvnni", has_avxvnni, avxvnni_kernels},
#endif
#ifdef RADIXMILL_AVX2
    {"avx2", has_avx2, avx2_kernels},
#endif
#ifdef RADIXMILL_NEON_DOTPROD
    {"neon-dotprod", has_dotprod, neon_dotprod_kernels},
#endif
#ifdef RADIXMILL_NEON
    {"neon", always, neon_kernels},
#endif
    {"portable", always, portable_kernels},
};

}  // namespace

std::vector<std::string> isas() {
  std::vector<std::string> all;
  for (const Isa& isa : kIsas)
    if (isa.here()) all.push_back(isa.name);
  return all;
}

const Kernels& kernels_for(const std::string& name) {
  for (const Isa& isa : kIsas)
    if (name == isa.name && isa.here()) return isa.kernels();
  throw std::invalid_argument("no kernels for \"" + name + "\" in this build or on this machine");
}

}  // namespace radixmill
