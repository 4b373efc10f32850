#include "matrix.hpp"

#include <cstring>
#include <new>
#include <stdexcept>

#include "half.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace radixmill {

namespace {

// What files hold: GGML blocks are a header (f16 scale, for Q4_1 an f16 minimum too) and then the codes of 32 values.
struct Kind {
  const char* name;
  Format format;
  size_t bytes, values, header;  // per block
};
constexpr Kind kKinds[] = {
    {"F32", Format::f32, 4, 1, 0},    {"F16", Format::f16, 2, 1, 0},   {"BF16", Format::bf16, 2, 1, 0},
    {"Q4_0", Format::w4s, 18, 32, 2}, {"Q4_1", Format::w4, 20, 32, 4}, {"Q8_0", Format::w8, 34, 32, 2},
};

const Kind* find(const std::string& name, int k) {
  for (const Kind& kind : kKinds)
    if (name == kind.name) return k % int(kind.values) == 0 ? &kind : nullptr;
  return nullptr;
}

float half_at(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return half_to_float(h);
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
  const Kind* kind = find(name, k);
  return kind ? kind->bytes * (size_t(k) / kind->values) : 0;
}

Matrix::Matrix(const std::string& name, const uint8_t* data, int n, int k, Pool& pool) : n_(n), k_(k) {
  const Kind* kind = find(name, k);
  if (!kind || n <= 0 || k <= 0)
    throw std::invalid_argument("no compute format takes " + name + " with rows of " + std::to_string(k));
  format_ = kind->format, header_ = kind->header;
  data_ = allocate(nbytes());
  const size_t row_bytes = stored_row_bytes(name, k);
  constexpr int chunk = 16;
  pool.run((panels() + chunk - 1) / chunk, [&](int64_t task, int) {
    for (int p = int(task) * chunk; p < panels() && p < int(task + 1) * chunk; p++) pack_panel(data, row_bytes, p);
  });
}

void Matrix::pack_panel(const uint8_t* data, size_t row_bytes, int panel) {
  uint8_t* out = data_.get() + panel * panel_bytes(format_, k_);
  memset(out, 0, panel_bytes(format_, k_));  // rows past n are zero
  for (int r = 0; r < kLanes && panel * kLanes + r < n_; r++) {
    const uint8_t* row = data + size_t(panel * kLanes + r) * row_bytes;
    if (!is_quantised(format_)) {
      const size_t size = format_ == Format::f32 ? 4 : 2;
      for (int i = 0; i < k_; i++) memcpy(out + (size_t(i) * kLanes + r) * size, row + i * size, size);
      continue;
    }
    const size_t codes = format_ == Format::w8 ? 32 : 16;
    for (int g = 0; g < k_ / kGroup; g++, row += header_ + codes) {
      uint8_t* group = out + g * group_bytes(format_);
      for (size_t j = 0; j < codes / 4; j++) memcpy(group + 32 * j + 4 * r, row + header_ + 4 * j, 4);
      for (size_t h = 0; h < header_ / 2; h++)
        memcpy(group + code_bytes(format_) + (h * kLanes + r) * 2, row + 2 * h, 2);
    }
  }
}

const char* Matrix::format_name() const {
  switch (format_) {
    case Format::f32: return "f32";
    case Format::f16: return "f16";
    case Format::bf16: return "bf16";
    case Format::w8: return "w8";
    default: return "w4";
  }
}

void Matrix::row(int64_t index, float by, float* out) const {
  const uint8_t* panel = data_.get() + (index / kLanes) * panel_bytes(format_, k_);
  const int r = int(index % kLanes);
  if (!is_quantised(format_)) {
    for (int i = 0; i < k_; i++) {
      const uint8_t* at = panel + (size_t(i) * kLanes + r) * (format_ == Format::f32 ? 4 : 2);
      uint16_t half;
      float value;
      memcpy(&half, at, 2);
      if (format_ == Format::f32)
        memcpy(&value, at, 4);
      else
        value = format_ == Format::f16 ? half_to_float(half) : bf16_to_float(half);
      out[i] = value * by;
    }
    return;
  }
  for (int g = 0; g < k_ / kGroup; g++, panel += group_bytes(format_), out += kGroup) {
    const float scale = half_at(panel + code_bytes(format_) + 2 * r);
    const float low = format_ == Format::w4 ? half_at(panel + code_bytes(format_) + 2 * (kLanes + r)) : -8 * scale;
    for (int i = 0; i < kGroup; i++) {
      if (format_ == Format::w8)
        out[i] = scale * float(int8_t(panel[32 * (i / 4) + 4 * r + i % 4])) * by;
      else
        out[i] = (scale * float((panel[32 * (i % 16 / 4) + 4 * r + i % 4] >> (i / 16 * 4)) & 15) + low) * by;
    }
  }
}

}  // namespace radixmill
