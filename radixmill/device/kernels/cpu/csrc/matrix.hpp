// A weight matrix in panels, and the way there from what files hold.
#pragma once
#include <cstdlib>
#include <memory>
#include <string>

#include "kernels.hpp"
#include "pool.hpp"

namespace radixmill {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

// 64-byte aligned, uninitialised; large ones on huge pages where the system has them. Throws std::bad_alloc.
Buffer<uint8_t> allocate(size_t bytes);

// Bytes of one row of K values of a stored kind ("F32", "Q4_1", …); 0: no compute format takes this kind, or this K.
size_t stored_row_bytes(const std::string& kind, int k);

struct Kind;

class Matrix {
 public:
  // `data`: n rows of stored_row_bytes(kind, k), at any alignment; into panels of `lanes` rows. Throws
  // std::invalid_argument.
  Matrix(const std::string& kind, const uint8_t* data, int n, int k, int lanes, Pool& pool);

  Format format() const { return format_; }
  const char* format_name() const { return layout(format_).name; }
  int n() const { return n_; }
  int k() const { return k_; }
  int panels() const { return (n_ + lanes_ - 1) / lanes_; }
  size_t nbytes() const { return panel_bytes(format_, k_, lanes_) * panels(); }
  const uint8_t* data() const { return data_.get(); }

  // Row `index` dequantised, times scale, to out [k].
  void row(int64_t index, float scale, float* out) const;

 private:
  void pack_panel(const Kind& kind, const uint8_t* data, int panel);

  Format format_;
  int n_, k_, lanes_;
  Buffer<uint8_t> data_;
};

}  // namespace radixmill
