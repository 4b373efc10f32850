// Recorded forward passes, as Python sees them.
#include "bind.hpp"
#include "program.hpp"

namespace {

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
    return &held<Matrix>(object);
  }
  const Pages* pages(nb::object object) {
    kept.push_back(object);
    return &held<OwnedPages>(object);
  }
  Stack stack(const nb::sequence& matrices, const nb::sequence& orders) {
    for (nb::handle object : matrices) kept.push_back(nb::borrow(object));
    for (nb::handle object : orders) kept.push_back(nb::borrow(object));
    return make_stack(matrices, orders);
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
Register record_product(OwnedProgram& self, Register x, nb::sequence matrices, nb::sequence orders, nb::object bias, const std::string& source,
                        nb::object weight, float eps, int activation, Register into) {
  const Stack w = self.stack(matrices, orders);
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
  const int limit = table_limit(Array<float>(cos), half);
  const bool apart = parts.size() == 3;
  const QkvJob job{nullptr, nullptr, nullptr, apart ? queries : all, apart ? keys : all, apart ? values : all, heads,
                   nullptr, cosines, self.floats(sin, size_t(limit) * half), limit, half,
                   self.floats(q_norm, size_t(kv->dim)), self.floats(k_norm, size_t(kv->dim)), eps};
  return self.program.qkv(parts, kv, job, group);
}

Register record_latents(OwnedProgram& self, Register q, Register latent, nb::object pages, nb::object stacks,
                        nb::object cos, nb::object sin, int half, nb::object norm, float eps, int group) {
  const Pages* kv = self.pages(pages);
  self.kept.push_back(stacks);
  const Stacks* up = &held<OwnedStacks>(stacks);
  const float* cosines = self.floats(cos, kAny);
  const int limit = table_limit(Array<float>(cos), half);
  const LatentJob job{nullptr, nullptr, up, kv->dim - up->n(), nullptr, cosines, self.floats(sin, size_t(limit) * half),
                      limit, half, self.floats(norm, size_t(up->n())), eps};
  return self.program.latents(q, latent, kv, job, group);
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

void bind_program(nb::module_& m) {
  const auto none = nb::arg().none();
  nb::class_<OwnedProgram>(m, "Program")
      .def("__init__", [](OwnedProgram* self, nb::object engine) {
        new (self) OwnedProgram(engine, nb::cast<Engine&>(engine));
      })
      .def("embed", [](OwnedProgram& self, nb::object table, float scale) {
        return self.program.embed(self.matrix(table), scale);
      })
      .def("product", record_product, nb::arg(), nb::arg(), nb::arg(), none, nb::arg(), none, nb::arg(), nb::arg(), nb::arg())
      .def("rms_norm", [](OwnedProgram& self, Register x, nb::object weight, float eps) {
        const int k = int(Array<float>(weight).size());
        return self.program.rms_norm(x, self.floats(weight, size_t(k)), k, eps);
      })
      .def("layer_norm", [](OwnedProgram& self, Register x, nb::object weight, int groups, float eps) {
        const int k = Array<float>(weight).rows(size_t(groups));
        return self.program.layer_norm(x, self.floats(weight, kAny), groups, k, eps);
      })
      .def("add", [](OwnedProgram& self, Register x, Register y) { self.program.add(x, y); })
      .def("scale", [](OwnedProgram& self, Register x, float by) { return self.program.scale(x, by); })
      .def("softcap", [](OwnedProgram& self, Register x, float cap) { return self.program.softcap(x, cap); })
      .def("gated", [](OwnedProgram& self, Register x, int activation) {
        return self.program.gated(x, Activation(activation));
      })
      .def("rope", [](OwnedProgram& self, Register x, int heads, nb::object cos, nb::object sin, int half) {
        const int limit = table_limit(Array<float>(cos), half);
        self.program.rope(x, heads, self.floats(cos, kAny), self.floats(sin, size_t(limit) * half), limit, half);
      })
      .def("dimmed", [](OwnedProgram& self, Register x, Register gate) { self.program.dimmed(x, gate); })
      .def("route", [](OwnedProgram& self, Register logits, const Routing& routing, nb::object bias) {
        return self.program.route(logits, self.floats(bias, size_t(routing.experts)), routing);
      }, nb::arg(), nb::arg(), nb::arg().none())
      .def("experts", [](OwnedProgram& self, Register x, Register routes, nb::object mixture) {
        self.kept.push_back(mixture);
        return self.program.experts(x, routes, &held<OwnedMixture>(mixture));
      })
      .def("heads", [](OwnedProgram& self, Register x, nb::object stacks) {
        self.kept.push_back(stacks);
        return self.program.heads(x, &held<OwnedStacks>(stacks));
      })
      .def("qkv", record_qkv, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), none, none, nb::arg(),
           nb::arg())
      .def("latents", record_latents)
      .def("attention", [](OwnedProgram& self, Register q, nb::object kv, int heads, int group, float scale, int window,
                           float cap, nb::object sinks) {
        const Scores scores{scale, window, cap, self.floats(sinks, size_t(heads))};
        return self.program.attention(q, self.pages(kv), heads, group, scores);
      }, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), none)
      .def("gather", [](OwnedProgram& self, Register x) { return self.program.gather(x); })
      .def("finish", [](OwnedProgram& self, Register out) { self.program.finish(out); })
      .def_prop_ro("width", [](const OwnedProgram& self) { return self.program.width(); })
      .def("run", run_program);
}
