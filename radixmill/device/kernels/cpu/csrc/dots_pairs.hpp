// Products of codes with int8 activations, two to an int16: for instruction sets that multiply pairs of bytes. Include
// after a vec_*.hpp that has products(), signed_products() and together().
#pragma once
#include "codes.hpp"

namespace radixmill {
namespace {

template <Format F, int field>
RADIXMILL_INLINE VB dot_codes(const uint8_t* p) {
  return entries_of<F, field>(p);
}

// Dot products of one group: a panel's codes, less their offset, with each of TB rows of int8. Sums of products are
// taken together before int16 could overflow: eight products of 4 bits make 30,480, four of 5 bits 31,496, two of 6
// bits 32,004.

template <Format F, Lie lie, int j, int TB>
RADIXMILL_INLINE void add_chunk(const uint8_t* codes, const int8_t* x, size_t ldx, VS* sums) {
  constexpr int bits = layout(F).bits;
  const VB a = fetch<F, lie, 2 * j>(codes), b = fetch<F, lie, 2 * j + 1>(codes);
  for (int t = 0; t < TB; t++) {
    const int8_t* xt = x + t * ldx + 4 * j;
    const VS s = add_products(products(a, xt), products(b, xt + 16));
    sums[t] = j % 2 == 0 && (bits == 5 || j == 0) ? s : add_products(sums[t], s);
  }
}

// Signed codes: a pair of products fills an int16. Fields in the order of K, first the even ones.
template <Format F, Lie lie, int TB, int i = 0>
RADIXMILL_INLINE void dot_signed(const uint8_t* codes, const int8_t* x, size_t ldx, VI* out) {
  const VB w = fetch<F, lie, i % 4 * 2 + i / 4>(codes);
  for (int t = 0; t < TB; t++) {
    const VI s = together(signed_products(w, x + t * ldx + 4 * i));
    out[t] = i ? add_int(out[t], s) : s;
  }
  if constexpr (i < 7) dot_signed<F, lie, TB, i + 1>(codes, x, ldx, out);
}

template <Format F, Lie lie, int TB>
RADIXMILL_INLINE void dot_unsigned(const uint8_t* codes, const int8_t* x, size_t ldx, VI* out) {
  constexpr int bits = layout(F).bits;
  VS sums[TB];
  add_chunk<F, lie, 0, TB>(codes, x, ldx, sums);
  add_chunk<F, lie, 1, TB>(codes, x, ldx, sums);
  if (bits == 5)
    for (int t = 0; t < TB; t++) out[t] = together(sums[t]);
  add_chunk<F, lie, 2, TB>(codes, x, ldx, sums);
  add_chunk<F, lie, 3, TB>(codes, x, ldx, sums);
  for (int t = 0; t < TB; t++) out[t] = bits == 5 ? add_int(out[t], together(sums[t])) : together(sums[t]);
}

// Eight values of half h, from 8i on, times its factor.
template <Format F, Lie lie, int h, int i, int TB>
RADIXMILL_INLINE void add_half(const uint8_t* codes, const Pairs& factors, const int8_t* x, size_t ldx, VI* out) {
  const VB a = fetch<F, lie, 4 * i + h>(codes), b = fetch<F, lie, 4 * i + 2 + h>(codes);
  for (int t = 0; t < TB; t++) {
    const int8_t* xt = x + t * ldx + 16 * h + 8 * i;
    const VI s = together<h>(add_products(products(a, xt), products(b, xt + 4)), factors);
    out[t] = h || i ? add_int(out[t], s) : s;
  }
}

// minus: −Σ of each row's codes, `ldm` apart.
template <Format F, Lie lie, int TB>
RADIXMILL_INLINE void dot_group(const uint8_t* codes, const int8_t* x, size_t ldx, const int32_t* minus, size_t ldm,
                                VI* out) {
  constexpr Layout l = layout(F);
  if constexpr (l.is_signed())
    dot_signed<F, lie, TB>(codes, x, ldx, out);
  else
    dot_unsigned<F, lie, TB>(codes, x, ldx, out);
  if constexpr (l.offset > 0)
    for (int t = 0; t < TB; t++) out[t] = add_int(out[t], set1_int(minus[t * ldm] * l.offset));
}

// The same with a factor for each 16: at most 2 · 16 · 63 · 127 · 128 in int32. halves: Σ of each half's codes.
template <Format F, Lie lie, int TB>
RADIXMILL_INLINE void dot_halves(const uint8_t* codes, const Pairs& factors, const int8_t* x, size_t ldx,
                                 const int16_t* halves, size_t ldh, VI* out) {
  constexpr Layout l = layout(F);
  add_half<F, lie, 0, 0, TB>(codes, factors, x, ldx, out);
  add_half<F, lie, 0, 1, TB>(codes, factors, x, ldx, out);
  add_half<F, lie, 1, 0, TB>(codes, factors, x, ldx, out);
  add_half<F, lie, 1, 1, TB>(codes, factors, x, ldx, out);
  if constexpr (l.offset > 0)
    for (int t = 0; t < TB; t++) out[t] = sub_int(out[t], mul_int(times_halves(factors, halves + t * ldh), l.offset));
}

}  // namespace
}  // namespace radixmill
