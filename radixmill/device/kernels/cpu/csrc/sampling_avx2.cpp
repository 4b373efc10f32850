#include "sampling_body.hpp"

namespace radixmill {

const RowKernels& avx2_rows() {
  static constexpr RowKernels rows = make_rows("avx2");
  return rows;
}

}  // namespace radixmill
