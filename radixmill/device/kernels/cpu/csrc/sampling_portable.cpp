#include "sampling_body.hpp"

namespace radixmill {

const RowKernels& portable_rows() {
  static constexpr RowKernels rows = make_rows("portable");
  return rows;
}

}  // namespace radixmill
