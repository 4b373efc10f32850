// Python's view: arrays come in through the buffer protocol, C-contiguous, and are checked by their size in bytes.
// Every op runs without the interpreter lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>

#include "engine.hpp"

namespace nb = nanobind;
using namespace radixmill;

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

// While one lives: no interpreter lock, and the engine to ourselves.
class Call {
 public:
  explicit Call(Engine& engine) : alone_(engine.mutex()) {}

 private:
  nb::gil_scoped_release unlocked_;
  std::lock_guard<std::mutex> alone_;
};

// Pages together with the two arrays that hold them.
struct OwnedPages : Pages {
  nb::object keys_array, values_array;
};

OwnedPages make_pages(nb::object keys, nb::object values, bool half, int pages, int page_size, int groups, int dim,
                      int value_dim) {
  OwnedPages kv{{half, nullptr, nullptr, pages, page_size, groups, dim, value_dim}, keys, values};
  kv.keys = Array<uint8_t>(keys, size_t(pages) * kv.key_page() * kv.item(), true).data();
  kv.values = Array<uint8_t>(values, size_t(pages) * kv.value_page() * kv.item(), true).data();
  return kv;
}

struct RaggedArrays {
  Array<int32_t> query_starts, starts, page_ids, page_starts;

  explicit RaggedArrays(nb::handle a, nb::handle b, nb::handle c, nb::handle d)
      : query_starts(a), starts(b), page_ids(c), page_starts(d) {
    const size_t rows = starts.size();
    if (query_starts.size() != rows + 1 || page_starts.size() != rows + 1)
      throw std::invalid_argument("ragged: arrays disagree on the number of rows");
    if (page_starts.data()[0] < 0 || size_t(page_starts.data()[rows]) > page_ids.size())
      throw std::invalid_argument("ragged: page_starts leaves page_ids");
  }
  Ragged view() const {
    return {int(starts.size()), query_starts.data(), starts.data(), page_ids.data(), page_starts.data()};
  }
  size_t tokens() const { return size_t(query_starts.data()[starts.size()]); }
};

const Kernels& kernels_for(const std::string& isa) {
  if (isa == "portable") return portable_kernels();
#ifdef RADIXMILL_AVX2
  if (isa == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return avx2_kernels();
#endif
  throw std::invalid_argument("no kernels for \"" + isa + "\" in this build or on this machine");
}

std::string best_isa() {
#ifdef RADIXMILL_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) return "avx2";
#endif
  return "portable";
}

// Into columns [column, column + n) of y, whose rows have `width`.
void linear(Engine& engine, nb::handle x, const Matrix& w, nb::handle bias, nb::handle y, size_t width, size_t column) {
  Array<float> in(x);
  const int t = in.rows(size_t(w.k()));
  Array<float> out(y, size_t(t) * width, true);
  if (column + w.n() > width) throw std::invalid_argument("linear: more columns than the result has");
  const auto go = [&](const float* b) {
    const Call call(engine);
    engine.linear(w, in.data(), t, b, out.data() + column, width);
  };
  if (bias.is_none()) return go(nullptr);
  Array<float> b(bias, width);
  go(b.data() + column);
}

void embed(Engine& engine, nb::handle ids, const Matrix& w, float scale, nb::handle y) {
  Array<int64_t> in(ids);
  Array<float> out(y, in.size() * w.k(), true);
  const Call call(engine);
  engine.embed(w, in.data(), int(in.size()), scale, out.data());
}

void rms_norm(Engine& engine, nb::handle x, nb::handle weight, float eps, nb::handle y) {
  Array<float> in(x), w(weight), out(y, in.size(), true);
  const int rows = in.rows(w.size());
  const Call call(engine);
  engine.rms_norm(in.data(), w.data(), out.data(), rows, int(w.size()), eps);
}

void add(Engine& engine, nb::handle x, nb::handle y) {
  Array<float> out(x, kAny, true), in(y, out.size());
  const Call call(engine);
  engine.add(out.data(), in.data(), int64_t(out.size()));
}

void scale(Engine& engine, nb::handle x, float by, nb::handle y) {
  Array<float> in(x), out(y, in.size(), true);
  const Call call(engine);
  engine.scale(in.data(), out.data(), int64_t(in.size()), by);
}

void softcap(Engine& engine, nb::handle x, float cap, nb::handle y) {
  Array<float> in(x), out(y, in.size(), true);
  const Call call(engine);
  engine.softcap(in.data(), out.data(), int64_t(in.size()), cap);
}

void gated(Engine& engine, nb::handle gate_up, int activation, int f, nb::handle y) {
  Array<float> in(gate_up);
  const int t = in.rows(2 * size_t(f));
  Array<float> out(y, size_t(t) * f, true);
  const Call call(engine);
  engine.gated(in.data(), out.data(), t, f, Activation(activation));
}

void rope(Engine& engine, nb::handle x, int heads, int dim, nb::handle positions, nb::handle cos, nb::handle sin,
          int half) {
  Array<float> in(x, kAny, true), c(cos), s(sin, c.size());
  const int t = in.rows(size_t(heads) * dim), limit = c.rows(size_t(half));
  Array<int32_t> at(positions, size_t(t));
  const Call call(engine);
  engine.rope(in.data(), t, heads, dim, at.data(), c.data(), s.data(), limit, half);
}

// An array that may be None.
template <class T>
class Maybe {
 public:
  Maybe(nb::handle source, size_t count) {
    if (!source.is_none()) array_.emplace(source, count);
  }
  T* data() const { return array_ ? array_->data() : nullptr; }

 private:
  std::optional<Array<T>> array_;
};

// k, v: None where q holds all three side by side.
void qkv(Engine& engine, const OwnedPages& kv, nb::handle q, nb::handle k, nb::handle v, nb::handle y, int heads,
         nb::handle positions, nb::handle cos, nb::handle sin, int half, nb::handle q_norm, nb::handle k_norm,
         float eps, nb::handle a, nb::handle b, nb::handle c, nb::handle d) {
  const RaggedArrays ragged(a, b, c, d);
  const size_t t = ragged.tokens(), queries = size_t(heads) * kv.dim, keys = size_t(kv.groups) * kv.dim,
               values = size_t(kv.groups) * kv.value_dim, all = queries + keys + values;
  const bool stacked = k.is_none();
  Array<float> in(q, t * (stacked ? all : queries)), out(y, t * queries, true), cosines(cos), sines(sin, cosines.size());
  Maybe<float> in_k(k, t * keys), in_v(v, t * values), norm_q(q_norm, kv.dim), norm_k(k_norm, kv.dim);
  Array<int32_t> at(positions, t);
  QkvJob job{in.data(),      in_k.data(), in_v.data(),    int64_t(queries), int64_t(keys), int64_t(values),
             heads,          at.data(),   cosines.data(), sines.data(),     cosines.rows(size_t(half)), half,
             norm_q.data(),  norm_k.data(), eps};
  if (stacked) {
    job.k = job.q + queries, job.v = job.k + keys;
    job.q_stride = job.k_stride = job.v_stride = int64_t(all);
  } else if (v.is_none()) {
    throw std::invalid_argument("qkv: keys without values");
  }
  const Call call(engine);
  engine.qkv(kv, job, ragged.view(), out.data());
}

void kv_store(Engine& engine, const OwnedPages& kv, nb::handle k, nb::handle v, nb::handle a, nb::handle b,
              nb::handle c, nb::handle d) {
  const RaggedArrays ragged(a, b, c, d);
  Array<float> keys(k, ragged.tokens() * kv.groups * kv.dim), values(v, ragged.tokens() * kv.groups * kv.value_dim);
  const Call call(engine);
  engine.kv_store(kv, keys.data(), values.data(), ragged.view());
}

void attention(Engine& engine, const OwnedPages& kv, nb::handle q, nb::handle y, int heads, nb::handle a, nb::handle b,
               nb::handle c, nb::handle d, float scale, int window, float cap) {
  const RaggedArrays ragged(a, b, c, d);
  Array<float> in(q, ragged.tokens() * heads * kv.dim), out(y, ragged.tokens() * heads * kv.value_dim, true);
  const Call call(engine);
  engine.attention(kv, in.data(), out.data(), heads, ragged.view(), scale, window, cap);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "RadixMill's compiled CPU kernels; used through radixmill.device.kernels.cpu.CpuOps.";
  // A thread that still runs when the interpreter ends keeps its objects: the process's end frees them, and a user
  // must not read a page about it.
  nb::set_leak_warnings(false);
  m.def("best_isa", best_isa);

  nb::class_<Matrix>(m, "Matrix").def_prop_ro("format", &Matrix::format_name).def_prop_ro("nbytes", &Matrix::nbytes).def_prop_ro("n", &Matrix::n);
  nb::class_<OwnedPages>(m, "Pages")
      .def_ro("keys", &OwnedPages::keys_array)
      .def_ro("values", &OwnedPages::values_array)
      .def_prop_ro("value_dim", [](const OwnedPages& kv) { return kv.value_dim; });
  m.def("pages", make_pages);

  nb::class_<Engine>(m, "Engine")
      .def("__init__", [](Engine* self, const std::string& isa, int threads,
                          bool fast) { new (self) Engine(kernels_for(isa), threads, fast); })
      .def("pack",
           [](Engine& engine, const std::string& kind, nb::handle data, int n, int k) {
             const size_t row = stored_row_bytes(kind, k);
             if (row == 0)
               throw std::invalid_argument("no compute format takes " + kind + " with rows of " + std::to_string(k));
             Array<uint8_t> in(data, row * n);
             const Call call(engine);
             return Matrix(kind, in.data(), n, k, engine.pool());
           })
      .def("blocks",
           [](Engine& engine, const std::string& from, nb::handle x, int n, int k, const std::string& to, nb::handle y) {
             const size_t in_row = stored_row_bytes(from, k), out_row = stored_row_bytes(to, k);
             if (!in_row || !out_row)
               throw std::invalid_argument("no way from " + from + " to " + to + " with rows of " + std::to_string(k));
             Array<uint8_t> in(x, in_row * n), out(y, out_row * n, true);
             const Call call(engine);
             engine.blocks(from, in.data(), n, k, to, out.data());
           })
      .def("linear", linear, nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg())
      .def("embed", embed)
      .def("rms_norm", rms_norm)
      .def("add", add)
      .def("scale", scale)
      .def("softcap", softcap)
      .def("gated", gated)
      .def("rope", rope)
      .def("qkv", qkv, nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg())
      .def("kv_store", kv_store)
      .def("kv_copy",
           [](Engine& engine, const OwnedPages& kv, int src, int dst, int tokens) {
             const Call call(engine);
             engine.kv_copy(kv, src, dst, tokens);
           })
      .def("attention", attention);
}
