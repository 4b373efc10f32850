#include "vec_portable.hpp"
// The rest is written once, over the vectors above.
#include "math.hpp"
#include "elementwise.hpp"
#include "dots_pairs.hpp"
#include "blocks.hpp"
#include "linear.hpp"
#include "attention.hpp"
#include "isa_body.hpp"

namespace radixmill {

const Kernels& portable_kernels() {
  static constexpr Kernels kernels = make_kernels("portable");
  return kernels;
}

}  // namespace radixmill
