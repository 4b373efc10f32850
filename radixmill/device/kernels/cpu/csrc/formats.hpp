// The compute formats: how weights are stored for the kernels, as data. Adding one whose codes are of a known width is
// a line of kLayouts here, its place in the switches of linear.hpp, and a packer in stored.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace radixmill {

constexpr int kGroup = 32;  // values of a row that lie together; int8 activations that share a scale

// Floats first. The letters after the width: s has no minimum, k has integers times a scale of 256 values, n takes its
// codes through a table of unequal steps, f through the values of 4-bit floats.
enum class Format : int { f32, f16, bf16, f8, w8, w4, w4s, w5, w5s, w2k, w3k, w4k, w5k, w6k, w4n, w4nk, w4f };

// A panel has as many rows as the instruction set's vectors have floats: L lanes, 8 or 16. K ascends. Floats: [K][L], but bf16 in pairs
// of neighbours, [⌈K/2⌉][L][2], the last of an odd K with zeros.
// f8: blocks of 128 values, each [L] f32 scales, [128][L] codes of E4M3FN; a value is code · scale.
// Quantised: blocks, each
//   [L] f16 (w4f: bf16) scales, [L] f16 minima if the format has them,
//   [groups][L][factors] int8 factors of the scales, the same of the minima,
//   [groups] codes of L rows × 32 values.
// A value is (scale · factor) · (code − offset) + (minimum · factor); with a table, its entry stands for the code. Two factors per group: one per 16 values.
//
// Codes lie in planes of 4, 2 or 1 bits, least significant first; 5 bits are a plane of 4 and one of 1. Field i = 2j + h
// of a plane holds values 16h + 4j + b, b < 4, at byte 4r + b for row r: a plane of 2 bits has fields 0–3 in the bits of
// its first 4L bytes and fields 4–7 in its second. Codes of 8 bits are signed bytes, 8 chunks of [L rows][4 bytes].
enum class Table : int { none, unequal, fp4 };

// IQ4_NL's steps; and the values of FP4 (E2M1, OCP Microscaling Formats v1.0), doubled.
constexpr int8_t kTables[3][16] = {
    {},
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
    {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},
};

struct Layout {
  const char* name;
  int bits;
  int offset;
  bool minimum;
  int block;    // values of a row under one scale
  int factors;  // per group: 0, 1 or 2
  Table table = Table::none;

  __attribute__((always_inline)) constexpr bool is_signed() const { return bits == 8 || table != Table::none; }
};

constexpr Layout kLayouts[] = {
    {"f32", 32, 0, false, 1, 0}, {"f16", 16, 0, false, 1, 0},   {"bf16", 16, 0, false, 1, 0},
    {"f8", 8, 0, false, 128, 0}, {"w8", 8, 0, false, 32, 0},  {"w4", 4, 0, true, 32, 0},     {"w4", 4, 8, false, 32, 0},
    {"w5", 5, 0, true, 32, 0},   {"w5", 5, 16, false, 32, 0},   {"w2k", 2, 0, true, 256, 2},
    {"w3k", 3, 4, false, 256, 2}, {"w4k", 4, 0, true, 256, 1}, {"w5k", 5, 0, true, 256, 1},
    {"w6k", 6, 32, false, 256, 2},
    {"w4n", 4, 0, false, 32, 0, Table::unequal},   {"w4nk", 4, 0, false, 256, 1, Table::unequal},
    {"w4f", 4, 0, false, 32, 0, Table::fp4},
};

static constexpr Layout layout(Format f) { return kLayouts[int(f)]; }
static constexpr bool is_quantised(Format f) { return f >= Format::w8; }

// Bytes in a block of `lanes` rows, and where its parts begin. `g`: group of the block.
static constexpr size_t group_bytes(Layout l, int lanes) { return size_t(4) * lanes * l.bits; }
static constexpr size_t factors_at(Layout l, int g, int lanes) {
  return size_t(lanes) * ((l.minimum ? 4 : 2) + l.factors * g);
}
static constexpr size_t low_factors_at(Layout l, int g, int lanes) {
  return factors_at(l, l.block / kGroup + g, lanes);
}
static constexpr size_t codes_at(Layout l, int g, int lanes) {
  return factors_at(l, l.block / kGroup * (l.minimum ? 2 : 1), lanes) + group_bytes(l, lanes) * g;
}
static constexpr size_t block_bytes(Layout l, int lanes) { return codes_at(l, l.block / kGroup, lanes); }
static constexpr size_t f8_block_bytes(int lanes) { return size_t(lanes) * (4 + layout(Format::f8).block); }
static constexpr size_t panel_bytes(Format f, int k, int lanes) {
  const Layout l = layout(f);
  if (is_quantised(f)) return block_bytes(l, lanes) * size_t(k / l.block);
  if (f == Format::f8) return f8_block_bytes(lanes) * size_t(k / l.block);
  return size_t(f == Format::bf16 ? k + k % 2 : k) * lanes * (l.bits / 8);
}

// Where value i of row r lies in a panel of floats, in values.
static constexpr size_t float_at(Format f, int i, int r, int lanes) {
  return f == Format::bf16 ? (size_t(i / 2) * lanes + r) * 2 + i % 2 : size_t(i) * lanes + r;
}

}  // namespace radixmill
