// What the bindings share: arrays come in through the buffer protocol, C-contiguous, and are checked by their size in
// bytes. Every op runs without the interpreter lock.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <deque>
#include <limits>
#include <optional>
#include <stdexcept>

#include "engine.hpp"

namespace nb = nanobind;
using namespace radixmill;

void bind_program(nb::module_& m);
void bind_rows(nb::module_& m);

namespace {

constexpr size_t kAny = size_t(-1);

// A borrowed C-contiguous array; its memory stays where it is for the lifetime of this object.
template <class T>
class Array {
 public:
  // `count` items, or any whole number of them. Throws what the exporter raises for arrays that are not contiguous.
  Array(nb::handle source, size_t count = kAny, bool writable = false) {
    if (PyObject_GetBuffer(source.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE)) nb::raise_python_error();
    const size_t bytes = size_t(view_.len);
    if (count == kAny ? bytes % sizeof(T) == 0 : bytes == count * sizeof(T)) return;
    PyBuffer_Release(&view_);
    const std::string wanted =
        count == kAny ? "a multiple of " + std::to_string(sizeof(T)) : std::to_string(count * sizeof(T));
    throw std::invalid_argument("array of " + std::to_string(bytes) + " bytes where " + wanted +
                                " were expected: wrong shape or dtype");
  }
  ~Array() { PyBuffer_Release(&view_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() const { return static_cast<T*>(view_.buf); }
  size_t size() const { return size_t(view_.len) / sizeof(T); }
  // How many rows of `width` items; throws unless whole.
  int rows(size_t width) const {
    if (width == 0 || size() % width)
      throw std::invalid_argument("array is no whole number of rows of " + std::to_string(width));
    return int(size() / width);
  }

 private:
  Py_buffer view_;
};

// How many positions a table of `half` rotated pairs has; one of none serves any.
inline int table_limit(const Array<float>& table, int half) {
  return half == 0 ? std::numeric_limits<int>::max() : table.rows(size_t(half));
}

// An array that may be None.
template <class T>
class Maybe {
 public:
  Maybe(nb::handle source, size_t count = kAny) {
    if (!source.is_none()) array_.emplace(source, count);
  }
  T* data() const { return array_ ? array_->data() : nullptr; }
  size_t size() const { return array_ ? array_->size() : 0; }

 private:
  std::optional<Array<T>> array_;
};

// What a Python object holds; None is nobody's.
template <class T>
const T& held(nb::handle object) {
  if (!nb::isinstance<T>(object))
    throw nb::type_error((std::string("no ") + nb::type_name(nb::type<T>()).c_str()).c_str());
  return nb::cast<const T&>(object);
}

// Matrices side by side with the order of columns that each wants (int64 [K], checked to be within K) or None. Memory of
// both stays with Python.
[[maybe_unused]] Stack make_stack(const nb::sequence& matrices, const nb::sequence& orders) {
  Stack w;
  for (nb::handle matrix : matrices) {
    w.matrices.push_back(&held<Matrix>(matrix));
    if (w.matrices.back()->k() != w.k()) throw std::invalid_argument("matrices of different sizes");
  }
  if (w.matrices.empty()) throw std::invalid_argument("no matrices");
  for (nb::handle order : orders) {
    const Maybe<int64_t> columns(order, size_t(w.k()));
    for (int i = 0; i < w.k() && columns.data(); i++)
      if (columns.data()[i] < 0 || columns.data()[i] >= w.k()) throw std::out_of_range("an order leaves the columns");
    w.orders.push_back(columns.data());
  }
  if (w.orders.size() != w.matrices.size()) throw std::invalid_argument("not one order for each matrix");
  return w;
}

// A stack for each, with the Python objects whose memory they read.
struct OwnedStacks : Stacks {
  std::vector<nb::object> kept;

  // each: (matrices, orders) of one stack.
  explicit OwnedStacks(const nb::sequence& all) {
    for (nb::handle one : all) {
      const nb::sequence both = nb::borrow<nb::sequence>(one);
      each.push_back(make_stack(nb::borrow<nb::sequence>(both[0]), nb::borrow<nb::sequence>(both[1])));
      kept.push_back(nb::borrow(one));
    }
    check();
  }
};

struct OwnedMixture : Mixture {
  std::vector<nb::object> kept;

  OwnedMixture(const nb::sequence& up, const nb::sequence& down_, nb::object up_bias, nb::object bias, int activation_)
      : kept{nb::borrow(up), nb::borrow(down_), up_bias, bias} {
    gate_up = OwnedStacks(up), down = OwnedStacks(down_);
    check();
    gate_up_bias = Maybe<float>(up_bias, size_t(gate_up.count()) * gate_up.n()).data();
    down_bias = Maybe<float>(bias, size_t(down.count()) * down.n()).data();
    activation = Activation(activation_);
  }
};

// While one lives: no interpreter lock, and the engine to ourselves.
class Call {
 public:
  explicit Call(Engine& engine) : alone_(engine.mutex()) {}

 private:
  nb::gil_scoped_release unlocked_;
  std::lock_guard<std::mutex> alone_;
};

// Pages together with the arrays that hold them.
struct OwnedPages : Pages {
  nb::object keys_array, values_array, key_scales_array, value_scales_array;
};

inline KV kv_kind(const std::string& name) {
  if (name == "f32") return KV::f32;
  if (name == "f16") return KV::f16;
  if (name == "int8") return KV::int8;
  throw std::invalid_argument("no keys and values of type " + name);
}

// Scales: None unless int8. Latent pages have neither values nor scales of values.
[[maybe_unused]] OwnedPages make_pages(const Engine& engine, const std::string& type, nb::object keys, nb::object values,
                      nb::object key_scales, nb::object value_scales, int pages, int page_size, int groups, int dim,
                      int value_dim, bool latent) {
  if (pages < 0 || page_size < 1 || groups < 1 || dim < 1 || value_dim < 1)
    throw std::invalid_argument("pages: a size below one");
  if (latent && value_dim > dim) throw std::invalid_argument("pages: a value is longer than the key that holds it");
  OwnedPages kv{{kv_kind(type), nullptr, nullptr, nullptr, nullptr, pages, page_size, groups, dim, value_dim,
                 engine.lanes(), latent}, keys, values, key_scales, value_scales};
  kv.keys = Array<uint8_t>(keys, size_t(pages) * kv.key_page() * kv.item(), true).data();
  kv.values = latent ? kv.keys : Array<uint8_t>(values, size_t(pages) * kv.value_page() * kv.item(), true).data();
  if (kv.kind == KV::int8) {
    kv.key_scales = Array<float>(key_scales, size_t(pages) * kv.scale_page(), true).data();
    kv.value_scales = latent ? kv.key_scales : Array<float>(value_scales, size_t(pages) * kv.scale_page(), true).data();
  }
  return kv;
}

struct RaggedArrays {
  Array<int32_t> query_starts, starts, page_ids, page_starts;

  explicit RaggedArrays(nb::handle a, nb::handle b, nb::handle c, nb::handle d)
      : query_starts(a), starts(b), page_ids(c), page_starts(d) {
    const size_t rows = starts.size();
    if (query_starts.size() != rows + 1 || page_starts.size() != rows + 1)
      throw std::invalid_argument("ragged: arrays disagree on the number of rows");
    int32_t before = 0;
    for (size_t r = 0; r <= rows; r++) {
      const int32_t start = page_starts.data()[r];
      if (start < before || size_t(start) > page_ids.size())
        throw std::invalid_argument("ragged: page_starts leaves page_ids");
      before = start;
    }
  }
  Ragged view() const {
    return {int(starts.size()), query_starts.data(), starts.data(), page_ids.data(), page_starts.data()};
  }
  size_t tokens() const { return size_t(query_starts.data()[starts.size()]); }
};

}  // namespace
