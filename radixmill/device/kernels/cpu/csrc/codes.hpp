// The codes of a panel's group as bytes, [lanes][4] to a vector. Include after a vec_*.hpp.
#pragma once

namespace radixmill {
namespace {

// Codes of values 16h + 4j + b of a group, field = 2j + h.
template <int bits, int field>
RADIXMILL_INLINE VB codes_of(const uint8_t* p) {
  if constexpr (bits == 8)
    return bytes(p + 4 * kLanes * (field / 2 + 4 * (field % 2)));
  else if constexpr (bits == 4 || bits == 2)
    return plane<bits, field, 0>(p);
  else if constexpr (bits == 3)
    return join(plane<2, field, 0>(p), plane<1, field, 2>(p + 8 * kLanes));
  else
    return join(plane<4, field, 0>(p), plane<bits - 4, field, 4>(p + 16 * kLanes));
}

// The same, or the table's entries for them, as signed bytes.
template <Format F, int field>
RADIXMILL_INLINE VB entries_of(const uint8_t* p) {
  constexpr Layout l = layout(F);
  if constexpr (l.table == Table::none) return codes_of<l.bits, field>(p);
  return lookup(kTables[int(l.table)], codes_of<l.bits, field>(p));
}

// The same as the products take them: see dots_*.hpp.
template <Format F, int field>
RADIXMILL_INLINE VB dot_codes(const uint8_t* p);

// Where the codes of a group lie: in their planes, or, for many tokens, made ready as bytes, field after field.
enum class Lie { packed, ready };

template <Format F, Lie lie, int field>
RADIXMILL_INLINE VB fetch(const uint8_t* p) {
  return lie == Lie::ready ? bytes(p + 4 * kLanes * field) : dot_codes<F, field>(p);
}

template <Format F, int field = 0>
RADIXMILL_INLINE void make_ready(const uint8_t* p, uint8_t* out) {
  store_bytes(out + 4 * kLanes * field, dot_codes<F, field>(p));
  if constexpr (field < 7) make_ready<F, field + 1>(p, out);
}

}  // namespace
}  // namespace radixmill
