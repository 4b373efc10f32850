// Sampling and the machine's peaks, as Python sees them.
#include "bind.hpp"
#include "probe.hpp"
#include "sampling.hpp"

namespace {

[[maybe_unused]] bool is_avx512(const std::string& isa) { return isa.rfind("avx512", 0) == 0; }

// Their bits do not depend on the instruction set: any that runs here will do.
const RowKernels& rows_for(const std::string& isa) {
#ifdef RADIXMILL_AVX512
  if (is_avx512(isa) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")) return avx512_rows();
#endif
#ifdef RADIXMILL_AVX2
  if (isa.rfind("avx", 0) == 0 && __builtin_cpu_supports("avx2")) return avx2_rows();
#endif
  return portable_rows();
}

nb::object part(nb::handle tuple, size_t i) { return tuple.is_none() ? nb::none() : nb::object(tuple[i]); }

// A Shaping of contract.py (None: none) together with the arrays it lies in, for rows of v tokens.
class Shape {
 public:
  Shape(nb::handle source, int v) : Shape(part(source, 0), part(source, 1), part(source, 2), part(source, 3), v) {}

  const Shaping& view() const { return view_; }

 private:
  Shape(nb::handle penalties, nb::handle bias, nb::handle mask, nb::handle banned, int v)
      : seen_(part(penalties, 0)),
        counts_(part(penalties, 1), seen_.size()),
        biased_(part(bias, 0)),
        bias_(part(bias, 1), biased_.size()),
        mask_(mask, size_t(v + 31) / 32),
        banned_(banned) {
    view_.seen = ids(seen_, v), view_.counts = counts_.data();
    view_.biased = ids(biased_, v), view_.bias = bias_.data();
    view_.mask = mask_.data(), view_.banned = ids(banned_, v);
    if (penalties.is_none()) return;
    view_.repetition = nb::cast<double>(part(penalties, 2));
    view_.frequency = nb::cast<double>(part(penalties, 3));
    view_.presence = nb::cast<double>(part(penalties, 4));
  }
  static Ids ids(const Maybe<int64_t>& array, int v) {
    bool outside = false;
    for (size_t i = 0; i < array.size(); i++) outside |= array.data()[i] < 0 || array.data()[i] >= v;
    if (outside) throw std::out_of_range("sampling: no such token");
    return {array.data(), array.size()};
  }

  Maybe<int64_t> seen_, counts_, biased_;
  Maybe<double> bias_;
  Maybe<uint32_t> mask_;
  Maybe<int64_t> banned_;
  Shaping view_;
};

// One RowSampler for each of an engine's threads, and the numbers that their exp is made of.
class Rows {
 public:
  Rows(const std::string& isa, int threads, nb::handle steps, double width, double inverse) {
    const Array<double> table(steps, 1024);
    steps_.assign(table.data(), table.data() + table.size());
    samplers_ = std::vector<RowSampler>(size_t(threads), RowSampler(rows_for(isa), {steps_.data(), width, inverse}));
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  // logits [S, v]; tokens[i] is drawn from row rows[i] by rules[i], after shapings[i], if there are any.
  void draw(Engine& engine, nb::handle logits, int v, nb::handle rows, nb::handle rules,
            const nb::sequence& shapings, nb::handle tokens) {
    const Array<float> in(logits);
    const Array<int32_t> which(rows);
    const size_t count = which.size();
    const Array<double> how(rules, count * kRuleFields);
    const Array<int64_t> out(tokens, count, true);
    check(in.rows(size_t(v)), v, which);
    for (size_t i = 0; i < count; i++) check(rule(how, i));
    std::deque<Shape> shapes;
    for (nb::handle shaping : shapings) shapes.emplace_back(shaping, v);
    if (!shapes.empty() && shapes.size() != count) throw std::invalid_argument("sampling: not one shaping for each row");
    const Shaping none;
    run(engine, count, [&](size_t i, RowSampler& sampler) {
      out.data()[i] = sampler.draw(in.data() + int64_t(which.data()[i]) * v, v, rule(how, i),
                                   shapes.empty() ? none : shapes[i].view());
    });
  }

  // peaks, masses [N], ids, best [N, k] of rows rows[i].
  void rank(Engine& engine, nb::handle logits, int v, nb::handle rows, int k, nb::handle peaks, nb::handle masses,
            nb::handle ids, nb::handle best) {
    const Array<float> in(logits);
    const Array<int32_t> which(rows);
    const size_t count = which.size();
    const Array<float> out_peaks(peaks, count, true), out_best(best, count * size_t(k), true);
    const Array<int64_t> out_masses(masses, count, true), out_ids(ids, count * size_t(k), true);
    check(in.rows(size_t(v)), v, which);
    if (k < 0 || k > v) throw std::invalid_argument("rank: k out of [0, V]");
    run(engine, count, [&](size_t i, RowSampler& sampler) {
      out_masses.data()[i] = sampler.rank(in.data() + int64_t(which.data()[i]) * v, v, k, out_peaks.data()[i],
                                          out_ids.data() + i * k, out_best.data() + i * k);
    });
  }

 private:
  static Rule rule(const Array<double>& rules, size_t i) {
    const double* r = rules.data() + kRuleFields * i;
    return {r[0], r[1], r[2], r[3], r[4]};
  }
  static void check(int s, int v, const Array<int32_t>& rows) {
    if (v >= kMostTokens) throw std::invalid_argument("sampling: too large a vocabulary");
    for (size_t i = 0; i < rows.size(); i++)
      if (rows.data()[i] < 0 || rows.data()[i] >= s) throw std::out_of_range("sampling: no such row");
  }
  static void check(const Rule& rule) {
    if (!(rule.temperature >= 0 && rule.top_k >= 0 && rule.top_p > 0 && rule.min_p >= 0 && rule.min_p <= 1 &&
          rule.u >= 0 && rule.u < 1))
      throw std::invalid_argument("sampling: temperature, top_k, top_p, min_p or u out of its range");
  }
  template <class F>
  void run(Engine& engine, size_t count, const F& f) {
    if (size_t(engine.pool().threads()) > samplers_.size()) throw std::invalid_argument("sampling: too few samplers");
    const Call call(engine);
    engine.pool().run(int64_t(count), [&](int64_t i, int worker) { f(size_t(i), samplers_[size_t(worker)]); });
  }

  std::vector<double> steps_;
  std::vector<RowSampler> samplers_;
};

const ProbeLoops& probe_for(const std::string& isa) {
#ifdef RADIXMILL_AVX512
  if (is_avx512(isa) && __builtin_cpu_supports("avx512vnni")) return avx512_probe();
#endif
#ifdef RADIXMILL_AVX2
  if (isa != "portable" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2_probe();
#endif
  return portable_probe();
}

// The instruction set used, and its Peaks.
std::tuple<std::string, double, double, double> measure(const std::string& isa, int threads, size_t bytes,
                                                        double seconds) {
  const nb::gil_scoped_release unlocked;
  Pool pool(threads);
  const ProbeLoops& loops = probe_for(isa);
  const Peaks peaks = probe(loops, pool, bytes, seconds);
  return {loops.isa, peaks.read, peaks.floats, peaks.int8};
}

}  // namespace

void bind_rows(nb::module_& m) {
  m.def("probe", measure);

  nb::class_<Rows>(m, "Rows")
      .def(nb::init<const std::string&, int, nb::handle, double, double>())
      .def("draw", &Rows::draw)
      .def("rank", &Rows::rank);
}
