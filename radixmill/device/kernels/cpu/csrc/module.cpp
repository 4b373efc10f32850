// Python's view: arrays come in through the buffer protocol, C-contiguous, and are checked by their size in bytes.
// Every op runs without the interpreter lock.
#include "bind.hpp"

#include "isas.hpp"

namespace {

void linear(Engine& engine, nb::handle x, const nb::sequence& matrices, const nb::sequence& orders, nb::handle bias,
            nb::handle y) {
  const Stack w = make_stack(matrices, orders);
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

void layer_norm(Engine& engine, nb::handle x, nb::handle weight, int groups, float eps, nb::handle y) {
  Array<float> in(x), w(weight), out(y, in.size(), true);
  const int rows = in.rows(w.size()), k = w.rows(size_t(groups));  // weight [groups, k]
  const Call call(engine);
  engine.layer_norm(in.data(), w.data(), out.data(), rows, groups, k, eps);
}

void dimmed(Engine& engine, nb::handle x, nb::handle gate) {
  Array<float> by(gate), out(x, kAny, true);
  const int k = by.size() ? out.rows(by.size()) : 0;
  const Call call(engine);
  engine.dimmed(out.data(), by.data(), int(by.size()), k);
}

void route(Engine& engine, nb::handle logits, const Routing& routing, nb::handle bias, nb::handle y) {
  Array<float> in(logits);
  Maybe<float> b(bias, size_t(routing.experts));
  const int t = in.rows(size_t(routing.experts));
  Array<float> out(y, size_t(t) * 2 * routing.top, true);
  const Call call(engine);
  engine.route(in.data(), b.data(), out.data(), t, routing);
}

void experts(Engine& engine, nb::handle x, nb::handle routes, const OwnedMixture& mixture, int top, nb::handle y) {
  Array<float> in(x), way(routes);
  const int t = in.rows(size_t(mixture.gate_up.k()));
  if (top < 1 || way.rows(2 * size_t(top)) != t) throw std::invalid_argument("experts: not one route for each token");
  Array<float> out(y, size_t(t) * mixture.down.n(), true);
  const Call call(engine);
  engine.experts(mixture, in.data(), way.data(), t, top, out.data());
}

void heads(Engine& engine, nb::handle x, const OwnedStacks& w, nb::handle y) {
  const int64_t row = w.count() * w.k(), wide = w.count() * w.n();
  Array<float> in(x);
  const int t = in.rows(size_t(row));
  Array<float> out(y, size_t(t * wide), true);
  const Call call(engine);
  engine.heads(w, {in.data(), row, w.k()}, t, {out.data(), wide, w.n()});
}

void rope(Engine& engine, nb::handle x, int heads, int dim, nb::handle positions, nb::handle cos, nb::handle sin,
          int half) {
  Array<float> in(x, kAny, true), c(cos), s(sin, c.size());
  const int t = in.rows(size_t(heads) * dim), limit = table_limit(c, half);
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
             heads,          at.data(),   cosines.data(), sines.data(),     table_limit(cosines, half), half,
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

void latents(Engine& engine, const OwnedPages& kv, nb::handle q, nb::handle latent, const OwnedStacks& up, nb::handle y,
             nb::handle positions, nb::handle cos, nb::handle sin, int half, nb::handle norm, float eps, nb::handle a,
             nb::handle b, nb::handle c, nb::handle d) {
  const RaggedArrays ragged(a, b, c, d);
  const size_t t = ragged.tokens(), heads = size_t(up.count());
  const int rope = kv.dim - up.n();
  if (rope < 0) throw std::invalid_argument("latents: pages of another shape");
  Array<float> in(q, t * heads * (up.k() + rope)), kept(latent, t * kv.dim), out(y, t * heads * kv.dim, true),
      cosines(cos), sines(sin, cosines.size()), weight(norm, size_t(up.n()));
  Array<int32_t> at(positions, t);
  const LatentJob job{in.data(),      kept.data(),   &up, rope, at.data(), cosines.data(), sines.data(),
                      table_limit(cosines, half), half, weight.data(), eps};
  const Call call(engine);
  engine.latents(kv, job, ragged.view(), out.data());
}

void kv_store(Engine& engine, const OwnedPages& kv, nb::handle k, nb::handle v, nb::handle a, nb::handle b,
              nb::handle c, nb::handle d) {
  const RaggedArrays ragged(a, b, c, d);
  Array<float> keys(k, ragged.tokens() * kv.groups * kv.dim), values(v, ragged.tokens() * kv.groups * kv.value_dim);
  const Call call(engine);
  engine.kv_store(kv, keys.data(), values.data(), ragged.view());
}

void attention(Engine& engine, const OwnedPages& kv, nb::handle q, nb::handle y, int heads, nb::handle a, nb::handle b,
               nb::handle c, nb::handle d, float scale, int window, float cap, nb::handle sinks) {
  const RaggedArrays ragged(a, b, c, d);
  const Maybe<float> sink(sinks, size_t(heads));
  Array<float> in(q, ragged.tokens() * heads * kv.dim), out(y, ragged.tokens() * heads * kv.value_dim, true);
  const Call call(engine);
  engine.attention(kv, in.data(), out.data(), heads, ragged.view(), {scale, window, cap, sink.data()});
}

// word: see beat.hpp; the array is kept alive by the engine. None: nobody looks.
void watch(Engine& engine, nb::handle word) {
  uint64_t* at = word.is_none() ? nullptr : Array<uint64_t>(word, 1, true).data();
  const Call call(engine);
  engine.pool().watch(at);
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "RadixMill's compiled CPU kernels; used through radixmill.device.kernels.cpu.CpuOps.";
  // A thread that still runs when the interpreter ends keeps its objects: the process's end frees them, and a user
  // must not read a page about it.
  nb::set_leak_warnings(false);
  m.def("isas", isas);

  nb::class_<Matrix>(m, "Matrix").def_prop_ro("format", &Matrix::format_name).def_prop_ro("nbytes", &Matrix::nbytes);
  nb::class_<OwnedPages>(m, "Pages")
      .def_ro("keys", &OwnedPages::keys_array)
      .def_ro("values", &OwnedPages::values_array)
      .def_ro("key_scales", &OwnedPages::key_scales_array)
      .def_ro("value_scales", &OwnedPages::value_scales_array)
      .def_prop_ro("dim", [](const OwnedPages& kv) { return kv.dim; })
      .def_prop_ro("value_dim", [](const OwnedPages& kv) { return kv.value_dim; });
  m.def("pages", make_pages, nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
        nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg());

  nb::class_<OwnedStacks>(m, "Stacks")
      .def(nb::init<const nb::sequence&>())
      .def_prop_ro("width", [](const OwnedStacks& w) { return w.count() * w.n(); });
  nb::class_<OwnedMixture>(m, "Mixture")
      .def(nb::init<const nb::sequence&, const nb::sequence&, nb::object, nb::object, int>(), nb::arg(), nb::arg(),
           nb::arg().none(), nb::arg().none(), nb::arg())
      .def_prop_ro("width", [](const OwnedMixture& mixture) { return mixture.down.n(); });
  nb::class_<Routing>(m, "Routing")
      .def("__init__", [](Routing* self, int experts, int top, bool sigmoid, bool renormalise, float scaling, int groups,
                          int top_groups, bool top2) {
        new (self) Routing{experts, top, sigmoid, renormalise, scaling, groups, top_groups, top2};
        self->check();
      });

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
      .def("watch", watch, nb::arg().none(), nb::keep_alive<1, 2>())
      .def("linear", linear, nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg())
      .def("blocks",
           [](Engine& engine, const std::string& from, nb::handle x, int n, int k, const std::string& to, nb::handle y) {
             const size_t in_row = stored_row_bytes(from, k), out_row = stored_row_bytes(to, k);
             if (!in_row || !out_row)
               throw std::invalid_argument("no way from " + from + " to " + to + " with rows of " + std::to_string(k));
             Array<uint8_t> in(x, in_row * n), out(y, out_row * n, true);
             const Call call(engine);
             engine.blocks(from, in.data(), n, k, to, out.data());
           })
      .def("embed", embed)
      .def("rms_norm", rms_norm)
      .def("layer_norm", layer_norm)
      .def("add", add)
      .def("scale", scale)
      .def("softcap", softcap)
      .def("gated", gated)
      .def("dimmed", dimmed)
      .def("route", route, nb::arg(), nb::arg(), nb::arg().none(), nb::arg())
      .def("experts", experts)
      .def("heads", heads)
      .def("rope", rope)
      .def("qkv", qkv, nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg())
      .def("latents", latents)
      .def("kv_store", kv_store)
      .def("kv_copy",
           [](Engine& engine, const OwnedPages& kv, int src, int dst, int tokens) {
             const Call call(engine);
             engine.kv_copy(kv, src, dst, tokens);
           })
      .def("attention", attention, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none());

  bind_program(m);
  bind_rows(m);
}
