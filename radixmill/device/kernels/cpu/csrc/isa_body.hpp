// The table of one instruction set. Include last.
#pragma once

namespace radixmill {
namespace {

constexpr Kernels make_kernels(const char* isa) {
  return {isa,          kLanes,          to_bf16,    linear_scratch,    linear_panels,   quantise_row,    rms_norm_row,
          layer_norm_row, add_rows,      add_scaled_rows, scale_rows,   softcap_rows,    gated_row,       dim_row,
          scores_row,   rope_token,      to_half_row, blocks_row,       rotate_row,      to_int8_row,     attention_scratch,
          attention_block, attention_state, attention_span, attention_join};
}

}  // namespace
}  // namespace radixmill
