// Rows in, rows out: norms, activations, rotation, quantisation. Include after math.hpp.
#pragma once

namespace radixmill {
namespace {

// The first n floats, at most a vector; the rest zero.
RADIXMILL_INLINE V load_some(const float* p, int n) {
  if (n >= kLanes) return load(p);
  float all[kLanes] = {};
  __builtin_memcpy(all, p, size_t(n) * 4);
  return load(all);
}
RADIXMILL_INLINE void store_some(float* p, V v, int n) {
  if (n >= kLanes) return store(p, v);
  float all[kLanes];
  store(all, v);
  __builtin_memcpy(p, all, size_t(n) * 4);
}

template <class F>
RADIXMILL_INLINE void map(const float* x, float* y, size_t n, F f) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(x + i)));
  if (i < n) store_some(y + i, f(load_some(x + i, int(n - i))), int(n - i));
}

template <class F>
RADIXMILL_INLINE void map2(const float* a, const float* b, float* y, size_t n, F f) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(a + i), load(b + i)));
  if (const int rest = int(n - i)) store_some(y + i, f(load_some(a + i, rest), load_some(b + i, rest)), rest);
}

void add_rows(float* x, const float* y, size_t n) {
  map2(x, y, x, n, [](V a, V b) { return add(a, b); });
}

void add_scaled_rows(float* x, const float* y, size_t n, float by) {
  map2(x, y, x, n, [by](V a, V b) { return add(a, mul(b, set1(by))); });
}

void scale_rows(const float* x, float* y, size_t n, float by) {
  map(x, y, n, [by](V a) { return mul(a, set1(by)); });
}

void softcap_rows(const float* x, float* y, size_t n, float cap) {
  map(x, y, n, [cap](V a) { return mul(tanh(div(a, set1(cap))), set1(cap)); });
}

// Two running vectors of sums, two vectors of values a turn, then a fixed tree: one order for every k. f(value, sum) of a
// zero adds nothing.
template <class F>
RADIXMILL_INLINE float sum_of(const float* x, int k, F f) {
  V even = zero(), odd = zero();
  int i = 0;
  for (; i + 2 * kLanes <= k; i += 2 * kLanes) {
    even = f(load(x + i), even);
    odd = f(load(x + i + kLanes), odd);
  }
  for (bool first = true; i < k; i += kLanes, first = false) {
    V& sum = first ? even : odd;
    sum = f(load_some(x + i, k - i), sum);
  }
  return sum_lanes(add(even, odd));
}

float mean(const float* x, int k) {
  return sum_of(x, k, [](V a, V sum) { return add(a, sum); }) / float(k);
}
float mean_square(const float* x, int k) {
  return sum_of(x, k, [](V a, V sum) { return fma(a, a, sum); }) / float(k);
}

void rms_norm_row(const float* x, const float* weight, float* y, int k, float eps) {
  const V inverse = set1(1.0f / __builtin_sqrtf(mean_square(x, k) + eps));
  map2(x, weight, y, size_t(k), [inverse](V a, V w) { return mul(mul(a, inverse), w); });
}

void layer_norm_row(const float* x, const float* weight, float* y, int k, float eps) {
  const V middle = set1(mean(x, k));
  map(x, y, size_t(k), [middle](V a) { return sub(a, middle); });
  rms_norm_row(y, weight, y, k, eps);
}

RADIXMILL_INLINE V sigmoid(V x) { return div(set1(1), add(set1(1), exp(sub(zero(), x)))); }

void dim_row(float* x, float gate, size_t n) {
  const V by = sigmoid(set1(gate));
  map(x, x, n, [by](V a) { return mul(a, by); });
}

// A NaN among the logits makes every share of a softmax NaN.
void scores_row(const float* logits, float* y, int n, bool sigmoids) {
  if (sigmoids) return map(logits, y, size_t(n), [](V a) { return sigmoid(a); });
  float peak = logits[0];
  for (int i = 0; i < n; i++) peak = logits[i] <= peak ? peak : logits[i];
  map(logits, y, size_t(n), [peak](V a) { return exp(sub(a, set1(peak))); });
  const V total = set1(sum_of(y, n, [](V a, V sum) { return add(a, sum); }));
  map(y, y, size_t(n), [total](V a) { return div(a, total); });
}

RADIXMILL_INLINE V silu(V x) { return div(x, add(set1(1), exp(sub(zero(), x)))); }
RADIXMILL_INLINE V gelu_tanh(V x) {
  const V cube = mul(mul(x, x), x);
  const V inner = mul(set1(0.797884561f), fma(set1(0.044715f), cube, x));
  return mul(mul(set1(0.5f), x), add(set1(1), tanh(inner)));
}
RADIXMILL_INLINE V gelu(V x) { return mul(mul(set1(0.5f), x), add(set1(1), erf(mul(x, set1(0.707106781f))))); }

// See Ops.gated in contract.py.
RADIXMILL_INLINE V clamped(V gate, V up) {
  const V g = min(set1(7), gate), u = max(set1(-7), min(set1(7), up));
  return mul(div(g, add(set1(1), exp(mul(set1(-1.702f), g)))), add(u, set1(1)));
}

void gated_row(const float* gate, const float* up, float* y, int f, Activation activation) {
  switch (activation) {
    case Activation::silu: return map2(gate, up, y, size_t(f), [](V g, V u) { return mul(silu(g), u); });
    case Activation::gelu_tanh: return map2(gate, up, y, size_t(f), [](V g, V u) { return mul(gelu_tanh(g), u); });
    case Activation::gelu: return map2(gate, up, y, size_t(f), [](V g, V u) { return mul(gelu(g), u); });
    case Activation::clamped: return map2(gate, up, y, size_t(f), [](V g, V u) { return clamped(g, u); });
  }
}

void rope_token(float* x, int heads, int dim, const float* cos, const float* sin, int half) {
  for (int h = 0; h < heads; h++, x += dim) {
    float *left = x, *right = x + half;
    for (int i = 0; i < half; i += kLanes) {
      const int n = half - i;
      const V c = load_some(cos + i, n), s = load_some(sin + i, n);
      const V a = load_some(left + i, n), b = load_some(right + i, n);
      store_some(left + i, sub(mul(a, c), mul(b, s)), n);
      store_some(right + i, add(mul(b, c), mul(a, s)), n);
    }
  }
}

void to_half_row(const float* x, uint16_t* y, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(y + i, load(x + i));
  if (i < n) {
    uint16_t all[kLanes];
    store_half(all, load_some(x + i, n - i));
    __builtin_memcpy(y + i, all, size_t(n - i) * 2);
  }
}

// Each value and its partner `reach` further on become their sum and their difference.
template <int reach>
RADIXMILL_INLINE void butterflies(float* x, int n) {
  for (int i = 0; i < n; i += 2 * reach)
    for (int j = i; j < i + reach; j++) {
      const float a = x[j], b = x[j + reach];
      x[j] = a + b, x[j + reach] = a - b;
    }
}

// See Kernels::rotate: partners ever farther apart, in blocks of the largest power of two that divides n.
void rotate_row(float* x, int n, float scale) {
  const int block = n & -n;
  if (block > 1) butterflies<1>(x, n);
  if (block > 2) butterflies<2>(x, n);
  if (block > 4) butterflies<4>(x, n);
  if (block > 8) butterflies<8>(x, n);
  for (int reach = 16; reach < block; reach *= 2)
    for (int i = 0; i < n; i += 2 * reach)
      for (int j = i; j < i + reach; j += kLanes) {
        const V a = load(x + j), b = load(x + j + reach);
        store(x + j, add(a, b)), store(x + j + reach, sub(a, b));
      }
  scale_rows(x, x, size_t(n), scale);
}

// One head, see Kernels::to_int8. Too small for a scale: all zero.
float to_int8_row(const float* x, int8_t* y, int n) {
  V peak = zero();
  bool nan = false;
  for (int i = 0; i < n; i += kLanes) {
    const V v = load_some(x + i, n - i);
    peak = max(peak, abs(v));
    nan |= any_nan(v);
  }
  const float most = max_lanes(peak);
  const float scale = nan || most > __FLT_MAX__ ? __builtin_nanf("") : most / 127.0f;
  const bool none = !(scale > 0);
  for (int i = 0; i < n; i += kLanes) {
    const V turned = none ? zero() : div(load_some(x + i, n - i), set1(scale));
    int8_t all[kLanes];
    store_int8(all, to_int(max(set1(-127), min(set1(127), turned))));
    __builtin_memcpy(y + i, all, size_t(n - i < kLanes ? n - i : kLanes));
  }
  return scale;
}

// One group of 32: scale = max|x| / 127, codes = round(x / scale); sums of the codes of each 16, of all times −1, and
// of all times the scale. A NaN anywhere makes the scale NaN.
void quantise_group(const float* x, int8_t* codes, float* scale, float* sum, int32_t* minus, int16_t* halves) {
  V peak = zero();
  bool nan = false;
  for (int i = 0; i < kGroup; i += kLanes) {
    const V v = load(x + i);
    peak = max(peak, abs(v));
    nan |= any_nan(v);
  }
  *scale = nan ? __builtin_nanf("") : max_lanes(peak) / 127.0f;
  const bool none = !(*scale > 0);
  float totals[2];  // integers up to 16 · 127: float sums are exact
  for (int h = 0; h < 2; h++) {
    VI total = to_int(zero());
    for (int i = 16 * h; i < 16 * h + 16; i += kLanes) {
      const V turned = none ? zero() : div(load(x + i), set1(*scale));
      const VI code = to_int(max(set1(-127), min(set1(127), turned)));
      store_int8(codes + i, code);
      total = add_int(total, code);
    }
    totals[h] = sum_lanes(to_float(total));
    halves[h] = int16_t(totals[h]);
  }
  *sum = *scale * (totals[0] + totals[1]);
  *minus = -int32_t(halves[0]) - halves[1];
}

void quantise_row(const float* x, int k, Codes row) {
  for (int g = 0; g * kGroup < k; g++)
    quantise_group(x + g * kGroup, row.codes + g * kGroup, row.scales + g, row.sums + g, row.minus + g,
                   row.halves + 2 * g);
}

}  // namespace
}  // namespace radixmill
