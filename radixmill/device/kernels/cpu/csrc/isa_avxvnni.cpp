#include "vec_avx2.hpp"
// The rest is written once, over the vectors above.
#include "math.hpp"
#include "elementwise.hpp"
#include "dots_quads.hpp"
#include "blocks.hpp"
#include "linear.hpp"
#include "attention.hpp"
#include "isa_body.hpp"

namespace radixmill {

const Kernels& avxvnni_kernels() {
  static constexpr Kernels kernels = make_kernels("avxvnni");
  return kernels;
}

}  // namespace radixmill
