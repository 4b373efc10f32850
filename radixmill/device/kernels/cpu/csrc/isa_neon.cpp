#include "vec_neon.hpp"
// The rest is written once, over the vectors above.
#include "math.hpp"
#include "elementwise.hpp"
#include "dots_pairs.hpp"
#include "blocks.hpp"
#include "linear.hpp"
#include "attention.hpp"
#include "isa_body.hpp"

namespace radixmill {

const Kernels& neon_kernels() {
  static constexpr Kernels kernels = make_kernels("neon");
  return kernels;
}

}  // namespace radixmill
