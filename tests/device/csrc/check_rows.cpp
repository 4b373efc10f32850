// Rows in, rows out: quantisation, norms, activations, rotation, half precision; at every width around a vector's.
#include "check.hpp"
#include "half.hpp"

namespace radixmill {

namespace {

const int kWidths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 257};
const float kInfinity = HUGE_VALF;

// f per value, in double; beside it, bits that depend on the value alone and nothing written past the end.
template <class Kernel, class Want>
void check_map(const char* what, const Floats& x, double tolerance, const Kernel& kernel, const Want& f, Report& report) {
  Floats all(x.size());
  kernel(x.data(), all.data(), int(x.size()));
  Doubles want;
  for (float v : x) want.push_back(f(double(v)));
  report.near(all, want, tolerance, what);
  report.mix(all);
  for (int n : kWidths)
    for (int from : {0, 3}) {
      Floats some(size_t(n) + 1, 7.0f), same(&all[from], &all[from] + n);
      same.push_back(7.0f);
      kernel(&x[from], some.data(), n);
      report.same(some, same, std::string(what) + " of " + std::to_string(n));
    }
}

void check_maps(const Kernels& k, Report& report) {
  const Floats x = Random(1).floats(300, 6), y = Random(2).floats(300, 2);
  check_map("scale", x, 1e-7, [&](auto p, auto out, int n) { k.scale(p, out, n, 0.3f); },
            [](double v) { return v * double(0.3f); }, report);
  check_map("softcap", Random(3).floats(300, 90), 3e-7, [&](auto p, auto out, int n) { k.softcap(p, out, n, 30); },
            [](double v) { return 30 * std::tanh(v / 30); }, report);
  check_map("add", x, 1e-7, [&](auto p, auto out, int n) { std::copy(p, p + n, out), k.add(out, p, n); },
            [](double v) { return v + v; }, report);
  Floats sum = x;
  k.add(sum.data(), y.data(), sum.size());
  for (size_t i = 0; i < x.size(); i++) report.expect(sum[i] == x[i] + y[i], "add");
}

double wanted(Activation activation, double x) {
  switch (activation) {
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::clamped: return 2 * std::min(x, 7.0) / (1 + std::exp(-1.702 * std::min(x, 7.0)));  // where up is 1
  }
  return 0;
}

void check_gated(const Kernels& k, Report& report) {
  const Floats x = Random(4).floats(300, 8), up = Random(5).floats(300, 2), ones(300, 1.0f);
  for (Activation a : {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::clamped}) {
    const std::string what = "gated " + std::to_string(int(a));
    check_map(what.c_str(), x, 5e-7, [&](auto p, auto out, int n) { k.gated(p, ones.data(), out, n, a); },
              [a](double v) { return wanted(a, v); }, report);
    if (a == Activation::clamped) continue;
    Floats alone(300), both(300);
    k.gated(x.data(), ones.data(), alone.data(), 300, a);
    k.gated(x.data(), up.data(), both.data(), 300, a);
    for (int i = 0; i < 300; i++) report.expect(both[i] == alone[i] * up[i], what + " times up");
  }
}

// What leaves the range of eˣ, and what is no number.
void check_extremes(const Kernels& k, Report& report) {
  constexpr int n = 32;  // the last 19 are NaN: every lane sees one
  Floats x = {0, -0.0f, 1e-40f, -1e-30f, 88, 89, 200, 1e30f, -87, -88, -200, -1e30f, kInfinity};
  x.resize(n, std::nanf(""));
  Floats silu(n), tanh(n), gelu(n), ones(n, 1.0f);
  k.gated(x.data(), ones.data(), silu.data(), n, Activation::silu);
  k.gated(x.data(), ones.data(), gelu.data(), n, Activation::gelu);
  k.softcap(x.data(), tanh.data(), n, 1);
  for (int i = 0; i < 12; i++) {
    const std::string at = " at " + std::to_string(x[i]);
    report.expect(std::fabs(silu[i] - wanted(Activation::silu, x[i])) <= 1e-6 * std::fabs(x[i]), "silu" + at);
    report.expect(std::fabs(gelu[i] - wanted(Activation::gelu, x[i])) <= 1e-6 * std::fabs(x[i]), "gelu" + at);
    report.expect(std::fabs(tanh[i] - std::tanh(x[i])) <= 2e-7 * std::fabs(std::tanh(x[i])), "tanh" + at);
  }
  report.expect(silu[12] == kInfinity && gelu[12] == kInfinity && tanh[12] == 1, "infinity");
  for (int i = 13; i < n; i++)
    report.expect(std::isnan(silu[i]) && std::isnan(gelu[i]) && std::isnan(tanh[i]), "NaN comes through");
  report.mix(silu), report.mix(gelu), report.mix(tanh);
}

void check_rms_norm(const Kernels& k, Report& report) {
  for (int n : kWidths) {
    Random random(static_cast<uint64_t>(n));
    const Floats x = random.floats(n, 3), weight = random.floats(n);
    double squares = 0;
    for (float v : x) squares += double(v) * v;
    Doubles want;
    for (int i = 0; i < n; i++) want.push_back(x[i] / std::sqrt(squares / n + 1e-5) * weight[i]);
    Floats y(size_t(n) + 1, 7.0f);
    k.rms_norm(x.data(), weight.data(), y.data(), n, 1e-5f);
    report.expect(y[n] == 7.0f, "rms_norm writes past the end");
    y.pop_back();
    report.near(y, want, 5e-7, "rms_norm of " + std::to_string(n));
    report.mix(y);
  }
}

void check_layer_norm(const Kernels& k, Report& report) {
  for (int n : kWidths) {
    Random random(static_cast<uint64_t>(n));
    const Floats x = random.floats(n, 3), weight = random.floats(n);
    double mean = 0, squares = 0;
    for (float v : x) mean += double(v) / n;
    for (float v : x) squares += (v - mean) * (v - mean);
    Doubles want;
    for (int i = 0; i < n; i++) want.push_back((x[i] - mean) / std::sqrt(squares / n + 1e-5) * weight[i]);
    Floats y(size_t(n) + 1, 7.0f);
    k.layer_norm(x.data(), weight.data(), y.data(), n, 1e-5f);
    report.expect(y[n] == 7.0f, "layer_norm writes past the end");
    y.pop_back();
    report.near(y, want, 2e-6, "layer_norm of " + std::to_string(n));
    report.mix(y);
  }
}

// A router's scores, and what a gate and a weight make of rows.
void check_scores(const Kernels& k, Report& report) {
  for (int n : kWidths) {
    const Floats x = Random(static_cast<uint64_t>(n)).floats(n, 5);
    double total = 0;
    for (float v : x) total += std::exp(double(v));
    for (bool sigmoid : {false, true}) {
      Doubles want;
      for (float v : x) want.push_back(sigmoid ? 1 / (1 + std::exp(-double(v))) : std::exp(double(v)) / total);
      Floats y(size_t(n) + 1, 7.0f);
      k.scores(x.data(), y.data(), n, sigmoid);
      report.expect(y[n] == 7.0f, "scores write past the end");
      y.pop_back();
      report.near(y, want, 1e-6, "scores of " + std::to_string(n));
      report.mix(y);
    }
  }
  const Floats x = Random(6).floats(300, 6);
  check_map("dim", x, 3e-7, [&](auto p, auto out, int n) { std::copy(p, p + n, out), k.dim(out, 0.7f, n); },
            [](double v) { return v / (1 + std::exp(-double(0.7f))); }, report);
  check_map("add_scaled", x, 3e-7, [&](auto p, auto out, int n) { std::fill_n(out, n, 0.0f), k.add_scaled(out, p, n, 0.3f); },
            [](double v) { return v * double(0.3f); }, report);
}

void check_rope(const Kernels& k, Report& report) {
  for (int half : {1, 4, 8, 12, 16, 20, 32, 64}) {
    const int heads = 3, dim = 2 * half + 5;  // only the first 2 · half turn
    Random random(static_cast<uint64_t>(half));
    const Floats before = random.floats(size_t(heads) * dim), cos = random.floats(half), sin = random.floats(half);
    Doubles want(before.begin(), before.end());
    for (int h = 0; h < heads; h++)
      for (int i = 0; i < half; i++) {
        const double a = before[h * dim + i], b = before[h * dim + half + i];
        want[h * dim + i] = a * cos[i] - b * sin[i], want[h * dim + half + i] = b * cos[i] + a * sin[i];
      }
    Floats x = before;
    k.rope(x.data(), heads, dim, cos.data(), sin.data(), half);
    report.near(x, want, 2e-7, "rope of " + std::to_string(half));
    report.mix(x);
    for (int h = 0; h < heads; h++)
      for (int i = 2 * half; i < dim; i++) report.expect(x[h * dim + i] == before[h * dim + i], "rope leaves the rest");
  }
}

// Every half, the middles between them and their neighbours; random bits, NaN among them.
void check_half(const Kernels& k, Report& report) {
  Floats x;
  for (uint32_t h = 0; h < 0x10000; h++) {
    const float value = half_to_float(uint16_t(h));
    x.push_back(value);
    if ((h & 0x7fff) >= 0x7c00) continue;
    const float next = half_to_float(uint16_t(h + 1)), middle = std::isinf(next) ? std::copysign(65520.0f, value) : value / 2 + next / 2;
    x.insert(x.end(), {middle, std::nextafter(middle, value), std::nextafter(middle, next)});
  }
  Random random(6);
  for (int i = 0; i < 20000; i++) x.push_back(bits_to_float(random.bits()));
  std::vector<uint16_t> got(x.size()), want;
  k.to_half(x.data(), got.data(), int(x.size()));
  for (float v : x) want.push_back(float_to_half(v));
  report.same(got, want, "to_half");
  report.mix(got.data(), got.size() * 2);
  for (int n : kWidths) {
    std::vector<uint16_t> some(size_t(n) + 1, 7), same(&want[1000], &want[1000] + n);
    same.push_back(7);
    k.to_half(&x[1000], some.data(), n);
    report.same(some, same, "to_half of " + std::to_string(n));
  }
}

// One group, by the words of quantise_group.
void quantise_plainly(const float* x, Codes out) {
  float peak = 0;
  bool nan = false;
  for (int i = 0; i < kGroup; i++) peak = std::max(peak, std::fabs(x[i])), nan |= std::isnan(x[i]);
  *out.scales = nan ? std::nanf("") : peak / 127.0f;
  out.halves[0] = out.halves[1] = 0;
  for (int i = 0; i < kGroup; i++) {
    const float turned = *out.scales > 0 ? x[i] / *out.scales : 0;
    out.codes[i] = int8_t(std::nearbyint(std::max(-127.0f, std::min(127.0f, turned))));
    out.halves[i / 16] = int16_t(out.halves[i / 16] + out.codes[i]);
  }
  *out.minus = -(out.halves[0] + out.halves[1]);
  *out.sums = *out.scales * float(-*out.minus);
}

void check_quantise(const Kernels& k, Report& report) {
  Random random(7);
  for (int groups : {1, 3, 40}) {
    const int n = groups * kGroup;
    Floats x = random.floats(n, 4);
    for (int i = 0; i < n; i++) {
      const int group = i / kGroup % 8;
      if (group == 1) x[i] = 0;
      if (group == 2) x[i] = float(i % 32) - 15.5f + 111.5f * (i % 32 == 0 ? -1 : 0);  // halves, at a scale of 1
      if (group == 3) x[i] *= 1e-40f;
      if (group == 4) x[i] *= 1e37f;
      if (group == 5 && i % 32 == 13) x[i] = std::nanf("");
    }
    Int8Rows got(1, n), want(1, n);
    k.quantise(x.data(), n, got.view());
    for (int g = 0; g < groups; g++)
      quantise_plainly(&x[g * kGroup], {&want.codes[g * kGroup], &want.scales[g], &want.sums[g], &want.minus[g], &want.halves[2 * g]});
    report.same(got.codes, want.codes, "quantise: codes");
    report.same(got.minus, want.minus, "quantise: sums of all");
    report.same(got.halves, want.halves, "quantise: sums of halves");
    for (int g = 0; g < groups; g++)
      for (auto pair : {std::pair{got.scales[g], want.scales[g]}, {got.sums[g], want.sums[g]}})
        report.expect(pair.first == pair.second || (std::isnan(pair.first) && std::isnan(pair.second)), "quantise: scales");
    report.mix(got.codes.data(), got.codes.size()), report.mix(got.scales), report.mix(got.sums);
  }
}

}  // namespace

void check_rows(const Kernels& kernels, Report& report) {
  check_maps(kernels, report);
  check_gated(kernels, report);
  check_extremes(kernels, report);
  check_layer_norm(kernels, report);
  check_scores(kernels, report);
  check_rms_norm(kernels, report);
  check_rope(kernels, report);
  check_half(kernels, report);
  check_quantise(kernels, report);
}

}  // namespace radixmill
