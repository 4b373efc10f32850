// Products of codes with int8 activations, four at a time into int32: for instruction sets that have dot4(). Where it
// takes its codes as unsigned, signed ones go in with kSignedBias added. Include after a vec_*.hpp.
#pragma once
#include "codes.hpp"

namespace radixmill {
namespace {

// What was added to a code for dot4, or lies in it as its format's offset, and must be taken off again: a power of two,
// or nothing.
template <Format F>
constexpr int bias_of = layout(F).is_signed() ? kSignedBias : layout(F).offset;

template <Format F, int field>
RADIXMILL_INLINE VB dot_codes(const uint8_t* p) {
  const VB codes = entries_of<F, field>(p);
  return layout(F).is_signed() ? biased(codes) : codes;
}

// Fields first, first + step, … of a group, added to out.
template <Format F, Lie lie, int TB, int step, int field>
RADIXMILL_INLINE void add_fields(const uint8_t* codes, const int8_t* x, size_t ldx, VI* out) {
  const VB w = fetch<F, lie, field>(codes);
  for (int t = 0; t < TB; t++) out[t] = dot4(out[t], w, x + t * ldx + 16 * (field % 2) + 4 * (field / 2));
  if constexpr (field + step < 8) add_fields<F, lie, TB, step, field + step>(codes, x, ldx, out);
}

// Dot products of one group: a panel's codes, less their offset, with each of TB rows of int8. minus: −Σ of each row's
// codes, `ldm` apart.
template <Format F, Lie lie, int TB>
RADIXMILL_INLINE void dot_group(const uint8_t* codes, const int8_t* x, size_t ldx, const int32_t* minus, size_t ldm,
                                VI* out) {
  for (int t = 0; t < TB; t++) out[t] = times_power<bias_of<F>>(set1_int(minus[t * ldm]));
  add_fields<F, lie, TB, 1, 0>(codes, x, ldx, out);
}

// The same with a factor for each 16. halves: Σ of each half's codes.
template <Format F, Lie lie, int TB>
RADIXMILL_INLINE void dot_halves(const uint8_t* codes, const Pairs& factors, const int8_t* x, size_t ldx,
                                 const int16_t* halves, size_t ldh, VI* out) {
  VI first[TB], second[TB];
  for (int t = 0; t < TB; t++) {
    first[t] = times_power<bias_of<F>>(set1_int(-halves[t * ldh]));
    second[t] = times_power<bias_of<F>>(set1_int(-halves[t * ldh + 1]));
  }
  add_fields<F, lie, TB, 2, 0>(codes, x, ldx, first);
  add_fields<F, lie, TB, 2, 1>(codes, x, ldx, second);
  for (int t = 0; t < TB; t++)
    out[t] = add_int(mul_ints(first[t], factors.first), mul_ints(second[t], factors.second));
}

}  // namespace
}  // namespace radixmill
