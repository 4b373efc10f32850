#include "sampling_body.hpp"

namespace radixmill {

const RowKernels& avx512_rows() {
  static constexpr RowKernels rows = make_rows("avx512");
  return rows;
}

}  // namespace radixmill
