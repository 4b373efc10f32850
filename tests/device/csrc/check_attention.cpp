// Attention over pages that lie anywhere, with NaN wherever nothing was stored.
#include "check.hpp"
#include "half.hpp"

namespace radixmill {

namespace {

struct Shape {
  const char* name;
  int page_size, heads, groups, dim, value_dim, length, window;
  float softcap;
  bool latent = false;  // a value is the beginning of its key
};
constexpr Shape kShapes[] = {
    {"one of each", 16, 1, 1, 8, 8, 1, 0, 0},       {"plain", 16, 6, 2, 32, 32, 50, 0, 0},
    {"odd sizes", 5, 3, 3, 20, 12, 23, 0, 0},       {"window", 16, 4, 4, 24, 24, 60, 7, 0},
    {"soft cap", 8, 4, 1, 16, 40, 30, 0, 2},        {"all at once", 12, 7, 1, 36, 68, 45, 19, 5},
    {"many share", 32, 16, 2, 64, 64, 40, 0, 0},    {"latents", 12, 7, 1, 36, 20, 45, 19, 5, true},
    {"latents of a page", 64, 16, 1, 72, 64, 50, 0, 0, true},
};

// One row's queries, keys and values, position by position; and the pages that hold the latter two.
template <class T>
struct Row {
  Row(const Shape& shape, int lanes, Random& random)
      : s(shape), stride_p(pad(s.page_size, lanes)), stride_d(pad(s.latent ? s.dim : s.value_dim, lanes)),
        q(random.floats(size_t(s.length) * s.heads * s.dim)), k(random.floats(size_t(s.length) * s.groups * s.dim)),
        v(random.floats(size_t(s.length) * s.groups * s.value_dim)) {
    const int pages = (s.length + s.page_size - 1) / s.page_size;
    for (int i = 0; i < pages; i++) page_ids.push_back(pages - i);  // page 0 is nobody's
    const T nan = sizeof(T) == 4 ? T(std::nanf("")) : T(0x7e00);
    const size_t rows = size_t(pages + 1) * s.groups * s.page_size * stride_d;
    keys.assign(s.latent ? rows : size_t(pages + 1) * s.groups * s.dim * stride_p, nan);
    values.assign(s.latent ? 0 : rows, nan);
    for (int at = 0; at < s.length; at++) put(at);
  }

  void put(int at) {
    for (int g = 0; g < s.groups; g++) {
      const size_t place = size_t(page_ids[at / s.page_size]) * s.groups + g;
      float *key = &k[(size_t(at) * s.groups + g) * s.dim], *value = &v[(size_t(at) * s.groups + g) * s.value_dim];
      if (s.latent) {
        T* row = &keys[(place * s.page_size + at % s.page_size) * stride_d];
        std::fill(row, row + stride_d, T(0));
        for (int i = 0; i < s.dim; i++) key[i] = put(key[i], row[i]);
        std::copy(key, key + s.value_dim, value);
        continue;
      }
      for (int i = 0; i < s.dim; i++) key[i] = put(key[i], keys[(place * s.dim + i) * stride_p + at % s.page_size]);
      for (int i = 0; i < s.value_dim; i++)
        value[i] = put(value[i], values[(place * s.page_size + at % s.page_size) * stride_d + i]);
    }
  }
  // Returns what was stored.
  float put(float x, float& slot) { return slot = x; }
  float put(float x, uint16_t& slot) { return half_to_float(slot = float_to_half(x)); }

  // [queries, heads, value_dim] of the block at `position`, every group.
  Floats run(const Kernels& kernels, int position, int queries, bool fast = false) const {
    const AttentionJob job{sizeof(T) == 2 ? KV::f16 : KV::f32, keys.data(), values.data(), nullptr, nullptr, s.groups,
                           s.page_size, s.dim, s.value_dim, s.heads, 1 / std::sqrt(float(s.dim)), s.softcap, s.window,
                           nullptr, page_ids.data(), nullptr, s.latent, s.latent ? s.heads : 0, fast};
    Floats y(size_t(queries) * s.heads * s.value_dim), scratch(kernels.attention_scratch(job, queries), std::nanf(""));
    const int share = shared_heads(job);
    for (int h = 0; h < s.heads; h += share)
      kernels.attention(job, {&q[size_t(position) * s.heads * s.dim], y.data(), queries, position, h, share},
                        scratch.data());
    return y;
  }

  const Shape& s;
  int stride_p, stride_d;
  Floats q, k, v;
  std::vector<T> keys, values;
  std::vector<int32_t> page_ids;
};

// Of query `at` and head `h`, in double, appended to y.
template <class T>
void attend(const Row<T>& row, int at, int h, Doubles& y) {
  const Shape& s = row.s;
  const int first = s.window ? std::max(0, at - s.window + 1) : 0, group = h / (s.heads / s.groups);
  Doubles out(s.value_dim);
  double total = 0;
  for (int i = first; i <= at; i++) {
    double score = 0;
    for (int d = 0; d < s.dim; d++)
      score += double(row.q[(size_t(at) * s.heads + h) * s.dim + d]) * row.k[(size_t(i) * s.groups + group) * s.dim + d];
    score /= std::sqrt(double(s.dim));
    if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
    const double weight = std::exp(score);
    total += weight;
    for (int d = 0; d < s.value_dim; d++) out[d] += weight * row.v[(size_t(i) * s.groups + group) * s.value_dim + d];
  }
  for (double v : out) y.push_back(v / total);
}

// `fast`: as integers, where the instruction set does that.
template <class T>
void check_shape(const Kernels& kernels, const Shape& s, Report& report, bool fast = false) {
  Random random(uint64_t(s.length) * 100 + s.dim);
  const Row<T> row(s, kernels.lanes, random);
  const std::string what = std::string("attention, ") + s.name + (sizeof(T) == 2 ? ", half" : "") + (fast ? ", fast" : "");
  Doubles want;
  for (int at = 0; at < s.length; at++)
    for (int h = 0; h < s.heads; h++) attend(row, at, h, want);
  Floats alone;
  for (int at = 0; at < s.length; at++) {
    const Floats one = row.run(kernels, at, 1, fast);
    alone.insert(alone.end(), one.begin(), one.end());
  }
  report.near(alone, want, fast ? 3e-4 : 1e-6, what);
  if (!fast) report.mix(alone);  // the same on every processor; integers are not ARM's
  for (int block : {2, 3, 5, 8}) {
    Floats blocks;
    for (int at = 0; at < s.length; at += block) {
      const Floats some = row.run(kernels, at, std::min(block, s.length - at), fast);
      blocks.insert(blocks.end(), some.begin(), some.end());
    }
    report.same(blocks, alone, what + ": queries alone and in blocks of " + std::to_string(block));
  }
}

// A key that is NaN spoils the queries that see it, those of its own group, and no other.
void check_nan(const Kernels& kernels, Report& report) {
  const Shape& s = kShapes[3];
  Random random(8);
  Row<float> row(s, kernels.lanes, random);
  const Floats before = row.run(kernels, 0, 40);
  const int bad = 19, group = 2;
  row.k[(size_t(bad) * s.groups + group) * s.dim + 5] = std::nanf("");
  row.put(bad);
  const Floats after = row.run(kernels, 0, 40);
  for (int at = 0; at < 40; at++)
    for (int h = 0; h < s.heads; h++) {
      const size_t first = (size_t(at) * s.heads + h) * s.value_dim;
      const bool spoiled = at >= bad && at < bad + s.window && h / (s.heads / s.groups) == group;
      for (size_t i = first; i < first + s.value_dim; i++)
        report.expect(spoiled ? std::isnan(after[i]) : after[i] == before[i], "attention: a key that is NaN");
    }
}

}  // namespace

void check_attention(const Kernels& kernels, Report& report) {
  for (const Shape& shape : kShapes) {
    check_shape<float>(kernels, shape, report);
    check_shape<uint16_t>(kernels, shape, report);
    if (shape.latent) check_shape<uint16_t>(kernels, shape, report, true);
  }
  check_nan(kernels, report);
}

}  // namespace radixmill
