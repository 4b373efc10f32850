// Python's view: arrays come in through the buffer protocol, C-contiguous, and are checked by their size in bytes.
// Every op runs without the interpreter lock.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <deque>
#include <optional>
#include <stdexcept>

#include "isas.hpp"
#include "program.hpp"

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

OwnedPages make_pages(const Engine& engine, nb::object keys, nb::object values, bool half, int pages, int page_size,
                      int groups, int dim, int value_dim) {
  OwnedPages kv{{half, nullptr, nullptr, pages, page_size, groups, dim, value_dim, engine.lanes()}, keys, values};
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

void linear(Engine& engine, nb::handle x, const std::vector<const Matrix*>& matrices, nb::handle bias, nb::handle y) {
  const Stack w{matrices};
  Array<float> in(x);
  const int t = in.rows(size_t(w.k()));
  Array<float> out(y, size_t(t) * w.n(), true);
  Maybe<float> b(bias, size_t(w.n()));
  const Call call(engine);
  engine.product({}, w, in.data(), t, b.data(), out.data(), false);
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

// A program, with the Python objects whose memory its calls read.
struct OwnedProgram {
  OwnedProgram(nb::object owner, Engine& engine) : program(engine), engine(engine), kept{owner} {}

  const float* floats(nb::object array, size_t count) {
    if (array.is_none()) return nullptr;
    kept.push_back(array);
    return Array<float>(array, count).data();
  }
  const Matrix* matrix(nb::object object) {
    kept.push_back(object);
    return nb::cast<const Matrix*>(object);
  }
  const Pages* pages(nb::object object) {
    kept.push_back(object);
    return nb::cast<const OwnedPages*>(object);
  }
  Stack stack(const nb::sequence& objects) {
    Stack w;
    for (nb::handle object : objects) w.matrices.push_back(matrix(nb::borrow(object)));
    return w;
  }
  Source source(const std::string& kind, nb::object weight, float eps, int activation, int k) {
    const bool norm = kind == "norm";
    return {norm ? Source::norm : kind == "gated" ? Source::gated : Source::plain,
            norm ? floats(weight, size_t(k)) : nullptr, eps, Activation(activation)};
  }

  Program program;
  Engine& engine;
  std::vector<nb::object> kept;
};

using Register = Program::Register;

// `into` < 0: a new register; else its number, which the product is added to.
Register record_product(OwnedProgram& self, Register x, nb::sequence matrices, nb::object bias, const std::string& source,
                        nb::object weight, float eps, int activation, Register into) {
  const Stack w = self.stack(matrices);
  const float* b = self.floats(bias, size_t(w.n()));
  const Source from = self.source(source, weight, eps, activation, w.k());
  if (into < 0) return self.program.product(from, x, w, b);
  self.program.product_into(from, x, w, b, into);
  return into;
}

Register record_qkv(OwnedProgram& self, std::vector<Register> parts, nb::object pages, int heads, nb::object cos,
                    nb::object sin, int half, nb::object q_norm, nb::object k_norm, float eps, int group) {
  const Pages* kv = self.pages(pages);
  const int64_t queries = int64_t(heads) * kv->dim, keys = int64_t(kv->groups) * kv->dim,
                values = int64_t(kv->groups) * kv->value_dim, all = queries + keys + values;
  const float* cosines = self.floats(cos, kAny);
  const int limit = Array<float>(cos).rows(size_t(half));
  const bool apart = parts.size() == 3;
  const QkvJob job{nullptr, nullptr, nullptr, apart ? queries : all, apart ? keys : all, apart ? values : all, heads,
                   nullptr, cosines, self.floats(sin, size_t(limit) * half), limit, half,
                   self.floats(q_norm, size_t(kv->dim)), self.floats(k_norm, size_t(kv->dim)), eps};
  return self.program.qkv(parts, kv, job, group);
}

// ragged: per KV group its four arrays, flat.
void run_program(OwnedProgram& self, nb::handle ids, nb::handle positions, nb::handle wanted, const nb::sequence& ragged,
                 nb::handle out) {
  Array<int64_t> id(ids);
  Array<int32_t> at(positions, id.size()), rows(wanted);
  Array<float> y(out, rows.size() * size_t(self.program.width()), true);
  std::deque<RaggedArrays> arrays;
  Step step{int(id.size()), int(rows.size()), id.data(), at.data(), rows.data(), {}};
  for (nb::handle group : ragged) {
    const nb::sequence four = nb::borrow<nb::sequence>(group);
    step.ragged.push_back(arrays.emplace_back(four[0], four[1], four[2], four[3]).view());
    if (arrays.back().tokens() != id.size()) throw std::invalid_argument("ragged: not one query for each token");
  }
  if (int(step.ragged.size()) < self.program.groups()) throw std::invalid_argument("run: too few KV groups");
  for (size_t i = 0; i < rows.size(); i++)
    if (rows.data()[i] < 0 || size_t(rows.data()[i]) >= id.size()) throw std::out_of_range("run: no such token");
  const Call call(self.engine);
  self.program.run(step, y.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "RadixMill's compiled CPU kernels; used through radixmill.device.kernels.cpu.CpuOps.";
  // A thread that still runs when the interpreter ends keeps its objects: the process's end frees them, and a user
  // must not read a page about it.
  nb::set_leak_warnings(false);
  m.def("isas", isas);

  nb::class_<Matrix>(m, "Matrix").def_prop_ro("format", &Matrix::format_name).def_prop_ro("nbytes", &Matrix::nbytes).def_prop_ro("n", &Matrix::n);
  nb::class_<OwnedPages>(m, "Pages")
      .def_ro("keys", &OwnedPages::keys_array)
      .def_ro("values", &OwnedPages::values_array)
      .def_prop_ro("dim", [](const OwnedPages& kv) { return kv.dim; })
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
             return Matrix(kind, in.data(), n, k, engine.lanes(), engine.pool());
           })
      .def_prop_ro("lanes", &Engine::lanes)
      .def("linear", linear, nb::arg(), nb::arg(), nb::arg().none(), nb::arg())
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

  const auto none = nb::arg().none();
  nb::class_<OwnedProgram>(m, "Program")
      .def("__init__", [](OwnedProgram* self, nb::object engine) {
        new (self) OwnedProgram(engine, nb::cast<Engine&>(engine));
      })
      .def("embed", [](OwnedProgram& self, nb::object table, float scale) {
        return self.program.embed(self.matrix(table), scale);
      })
      .def("product", record_product, nb::arg(), nb::arg(), none, nb::arg(), none, nb::arg(), nb::arg(), nb::arg())
      .def("rms_norm", [](OwnedProgram& self, Register x, nb::object weight, float eps) {
        const int k = int(Array<float>(weight).size());
        return self.program.rms_norm(x, self.floats(weight, size_t(k)), k, eps);
      })
      .def("add", [](OwnedProgram& self, Register x, Register y) { self.program.add(x, y); })
      .def("scale", [](OwnedProgram& self, Register x, float by) { return self.program.scale(x, by); })
      .def("softcap", [](OwnedProgram& self, Register x, float cap) { return self.program.softcap(x, cap); })
      .def("gated", [](OwnedProgram& self, Register x, int activation) {
        return self.program.gated(x, Activation(activation));
      })
      .def("qkv", record_qkv, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), none, none, nb::arg(),
           nb::arg())
      .def("attention", [](OwnedProgram& self, Register q, nb::object kv, int heads, int group, float scale, int window,
                           float cap) {
        return self.program.attention(q, self.pages(kv), heads, group, scale, window, cap);
      })
      .def("gather", [](OwnedProgram& self, Register x) { return self.program.gather(x); })
      .def("finish", [](OwnedProgram& self, Register out) { self.program.finish(out); })
      .def_prop_ro("width", [](const OwnedProgram& self) { return self.program.width(); })
      .def("run", run_program);
}
