#include "probe_body.hpp"

namespace radixmill {

const ProbeLoops& avx512_probe() {
  static constexpr ProbeLoops loops = make_probe("avx512");
  return loops;
}

}  // namespace radixmill
