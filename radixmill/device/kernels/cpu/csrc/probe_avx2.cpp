#include "probe_body.hpp"

namespace radixmill {

const ProbeLoops& avx2_probe() {
  static constexpr ProbeLoops loops = make_probe("avx2");
  return loops;
}

}  // namespace radixmill
