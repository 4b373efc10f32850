#include "probe_body.hpp"

namespace radixmill {

const ProbeLoops& portable_probe() {
  static constexpr ProbeLoops loops = make_probe("portable");
  return loops;
}

}  // namespace radixmill
