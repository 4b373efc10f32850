#include "matrix.hpp"

#include <cstring>
#include <new>
#include <stdexcept>

#include "half.hpp"
#include "stored.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace radixmill {

namespace {

uint32_t word_at(const uint8_t* p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return word;
}

float half_at(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return half_to_float(h);
}

float bf16_at(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return bf16_to_float(h);
}

constexpr uint32_t bytes_of(uint32_t byte) { return byte * 0x01010101u; }

// Four codes are one word of a row. Field i of a plane holds values 16 · (i % 2) + 4 · (i / 2) and the next three.
constexpr int value_of(int field) { return 16 * (field % 2) + 4 * (field / 2); }

// A plane of the codes' bits [at, at + bits) of row r.
template <int bits, int at>
void write_plane(const uint8_t* codes, int r, int lanes, uint8_t* plane) {
  constexpr int fields = 8 / bits;
  for (int from = 0; from < 8; from += fields) {
    uint32_t word = 0;
    for (int i = 0; i < fields; i++)
      word |= (word_at(codes + value_of(from + i)) >> at & bytes_of((1u << bits) - 1)) << (bits * i);
    memcpy(plane + 4 * (lanes * (from / fields) + r), &word, 4);
  }
}

template <int bits, int at>
void read_plane(const uint8_t* plane, int r, int lanes, uint8_t* codes) {
  constexpr int fields = 8 / bits;
  for (int i = 0; i < 8; i++) {
    const uint32_t word = word_at(plane + 4 * (lanes * (i / fields) + r)) >> (bits * (i % fields));
    const uint32_t rest = at ? word_at(codes + value_of(i)) : 0;
    const uint32_t all = rest | (word & bytes_of((1u << bits) - 1)) << at;
    memcpy(codes + value_of(i), &all, 4);
  }
}

// Planes of 4 and 2 bits take 16 and 8 bytes of each row.
void write_codes(const uint8_t* codes, int bits, int r, int lanes, uint8_t* group) {
  if (bits == 8)
    for (int j = 0; j < 8; j++) memcpy(group + 4 * (lanes * j + r), codes + 4 * j, 4);
  else if (bits >= 4)
    write_plane<4, 0>(codes, r, lanes, group);
  else
    write_plane<2, 0>(codes, r, lanes, group);
  if (bits == 3) write_plane<1, 2>(codes, r, lanes, group + 8 * lanes);
  if (bits == 5) write_plane<1, 4>(codes, r, lanes, group + 16 * lanes);
  if (bits == 6) write_plane<2, 4>(codes, r, lanes, group + 16 * lanes);
}

void read_codes(const uint8_t* group, int bits, int r, int lanes, uint8_t* codes) {
  if (bits == 8)
    for (int j = 0; j < 8; j++) memcpy(codes + 4 * j, group + 4 * (lanes * j + r), 4);
  else if (bits >= 4)
    read_plane<4, 0>(group, r, lanes, codes);
  else
    read_plane<2, 0>(group, r, lanes, codes);
  if (bits == 3) read_plane<1, 2>(group + 8 * lanes, r, lanes, codes);
  if (bits == 5) read_plane<1, 4>(group + 16 * lanes, r, lanes, codes);
  if (bits == 6) read_plane<2, 4>(group + 16 * lanes, r, lanes, codes);
}

void write_block(const Block& block, Layout l, int r, int lanes, uint8_t* out) {
  memcpy(out + 2 * r, &block.scale, 2);
  if (l.minimum) memcpy(out + 2 * (lanes + r), &block.minimum, 2);
  for (int g = 0; g < l.block / kGroup; g++) {
    for (int i = 0; i < l.factors; i++) {
      const size_t at = size_t(l.factors * r + i);
      out[factors_at(l, g, lanes) + at] = uint8_t(block.factors[l.factors * g + i]);
      if (l.minimum) out[low_factors_at(l, g, lanes) + at] = uint8_t(block.low_factors[l.factors * g + i]);
    }
    write_codes(block.codes + kGroup * g, l.bits, r, lanes, out + codes_at(l, g, lanes));
  }
}

// Values of half h of a group.
void read_half(const uint8_t* block, Format f, int g, int r, int lanes, int h, const uint8_t* codes, float by,
               float* out) {
  const Layout l = layout(f);
  const int8_t* table = kTables[int(l.table)];
  const size_t factor = size_t(l.factors * r) + (l.factors == 2 ? h : 0);
  float scale = f == Format::w4f ? bf16_at(block + 2 * r) : half_at(block + 2 * r);
  float minimum = l.minimum ? half_at(block + 2 * (lanes + r)) : 0.0f;
  if (l.factors) scale *= float(int8_t(block[factors_at(l, g, lanes) + factor]));
  if (l.factors && l.minimum) minimum *= float(int8_t(block[low_factors_at(l, g, lanes) + factor]));
  if (l.offset) minimum = -float(l.offset) * scale;
  for (int i = 0; i < 16; i++) {
    const int code = l.bits == 8 ? int8_t(codes[i]) : l.table == Table::none ? codes[i] : table[codes[i]];
    out[i] = l.is_signed() ? scale * float(code) * by : (scale * float(code) + minimum) * by;
  }
}

float value_at(const uint8_t* p, Format format) {
  if (format == Format::f32) {
    float value;
    memcpy(&value, p, 4);
    return value;
  }
  uint16_t half;
  memcpy(&half, p, 2);
  return format == Format::f16 ? half_to_float(half) : bf16_to_float(half);
}

// Where the scale of block i of row r lies in a panel, and the first of its codes, which are `lanes` bytes apart.
size_t f8_scale_at(size_t i, int r, int lanes) { return f8_block_bytes(lanes) * i + size_t(4 * r); }
size_t f8_codes_at(size_t i, int r, int lanes) { return f8_block_bytes(lanes) * i + size_t(4 * lanes + r); }

void write_f8(const uint8_t* row, size_t blocks, int r, int lanes, uint8_t* panel) {
  constexpr int size = layout(Format::f8).block;
  for (size_t i = 0; i < blocks; i++, row += 4 + size) {
    memcpy(panel + f8_scale_at(i, r, lanes), row, 4);
    uint8_t* codes = panel + f8_codes_at(i, r, lanes);
    for (int j = 0; j < size; j++) codes[j * lanes] = row[4 + j];
  }
}

void read_f8(const uint8_t* panel, size_t blocks, int r, int lanes, float by, float* out) {
  constexpr int size = layout(Format::f8).block;
  for (size_t i = 0; i < blocks; i++) {
    const float scale = value_at(panel + f8_scale_at(i, r, lanes), Format::f32);
    const uint8_t* codes = panel + f8_codes_at(i, r, lanes);
    for (int j = 0; j < size; j++) *out++ = f8_to_float(codes[j * lanes]) * scale * by;
  }
}

}  // namespace

Buffer<uint8_t> allocate(size_t bytes) {
  constexpr size_t huge = size_t(2) << 20;
  const size_t align = bytes >= 2 * huge ? huge : 64;
  void* p = std::aligned_alloc(align, (bytes + align - 1) / align * align);
  if (!p) throw std::bad_alloc();
#ifdef __linux__
  if (align == huge) madvise(p, bytes / huge * huge, MADV_HUGEPAGE);  // a hint: failure costs only speed
#endif
  return Buffer<uint8_t>(static_cast<uint8_t*>(p));
}

size_t stored_row_bytes(const std::string& name, int k) {
  const Kind* kind = find_kind(name, k);
  return kind ? kind->bytes * (size_t(k) / layout(kind->format).block) : 0;
}

Matrix::Matrix(const std::string& name, const uint8_t* data, int n, int k, int lanes, Pool& pool)
    : n_(n), k_(k), lanes_(lanes) {
  const Kind* kind = find_kind(name, k);
  if (!kind || n <= 0 || k <= 0)
    throw std::invalid_argument("no compute format takes " + name + " with rows of " + std::to_string(k));
  format_ = kind->format;
  data_ = allocate(nbytes());
  constexpr int chunk = 16;
  pool.run((panels() + chunk - 1) / chunk, [&](int64_t task, int) {
    for (int p = int(task) * chunk; p < panels() && p < int(task + 1) * chunk; p++) pack_panel(*kind, data, p);
  });
}

void Matrix::pack_panel(const Kind& kind, const uint8_t* data, int panel) {
  const Layout l = layout(format_);
  const size_t blocks = size_t(k_ / l.block);
  uint8_t* out = data_.get() + panel * panel_bytes(format_, k_, lanes_);
  memset(out, 0, panel_bytes(format_, k_, lanes_));  // rows past n are zero
  for (int r = 0; r < lanes_ && panel * lanes_ + r < n_; r++) {
    const uint8_t* row = data + size_t(panel * lanes_ + r) * blocks * kind.bytes;
    if (format_ == Format::f8) {
      write_f8(row, blocks, r, lanes_, out);
      continue;
    }
    if (!is_quantised(format_)) {
      for (size_t i = 0; i < blocks; i++)
        memcpy(out + float_at(format_, int(i), r, lanes_) * kind.bytes, row + i * kind.bytes, kind.bytes);
      continue;
    }
    Block block;
    for (size_t i = 0; i < blocks; i++) {
      kind.read(row + i * kind.bytes, block);
      write_block(block, l, r, lanes_, out + i * block_bytes(l, lanes_));
    }
  }
}

void Matrix::row(int64_t index, float by, float* out) const {
  const Layout l = layout(format_);
  const uint8_t* panel = data_.get() + (index / lanes_) * panel_bytes(format_, k_, lanes_);
  const int r = int(index % lanes_);
  if (format_ == Format::f8) return read_f8(panel, size_t(k_ / l.block), r, lanes_, by, out);
  if (!is_quantised(format_)) {
    for (int i = 0; i < k_; i++) out[i] = value_at(panel + float_at(format_, i, r, lanes_) * size_t(l.bits / 8), format_) * by;
    return;
  }
  uint8_t codes[kGroup];
  for (int at = 0; at < k_; at += kGroup) {
    const uint8_t* block = panel + block_bytes(l, lanes_) * size_t(at / l.block);
    const int g = at % l.block / kGroup;
    read_codes(block + codes_at(l, g, lanes_), l.bits, r, lanes_, codes);
    for (int h = 0; h < 2; h++) read_half(block, format_, g, r, lanes_, h, codes + 16 * h, by, out + at + 16 * h);
  }
}

}  // namespace radixmill
