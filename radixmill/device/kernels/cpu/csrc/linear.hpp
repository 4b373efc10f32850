// y = x · Wᵀ (+ bias), 8 weight rows at a time. Include after a vec_*.hpp.
//
// The order of every sum is fixed: K ascends, one multiply-add per value (f32 path) or two per group of 32 (int8 path:
// scale · Σ code · code, and minimum · Σ code, in two sums added at the end). How many tokens or panels share the
// registers changes nothing in it, and neither do the blocks of K, between which the sums rest in memory as the floats
// they are.
#pragma once
#include <type_traits>

namespace radixmill {
namespace {

constexpr int kBlockK = 128;     // columns unpacked at a time: 4 panels of them make 16 KiB
constexpr int kBlockPanels = 4;  // panels that share a pass over x

// ── f32 path ──

// out[t][p] += Σ_k w[p][k] · x[t][k] for TB tokens and PB panels of 8 rows.
template <int TB, int PB>
void multiply(const float* w, size_t panel_stride, const float* x, size_t ldx, int k, float* out, size_t ldo) {
  V sum[TB][PB];
  for (int t = 0; t < TB; t++)
    for (int p = 0; p < PB; p++) sum[t][p] = load(out + t * ldo + p * kLanes);
  for (int i = 0; i < k; i++) {
    V rows[PB];
    for (int p = 0; p < PB; p++) rows[p] = load(w + p * panel_stride + size_t(i) * kLanes);
    for (int t = 0; t < TB; t++) {
      const V value = set1(x[t * ldx + i]);
      for (int p = 0; p < PB; p++) sum[t][p] = fma(rows[p], value, sum[t][p]);
    }
  }
  for (int t = 0; t < TB; t++)
    for (int p = 0; p < PB; p++) store(out + t * ldo + p * kLanes, sum[t][p]);
}

template <int PB>
void multiply_tokens(const float* w, size_t stride, const float* x, size_t ldx, int k, float* out, size_t ldo, int t) {
  constexpr int most = PB == 4 ? 3 : 6;  // as many sums as the registers hold
  while (t >= most) {
    multiply<most, PB>(w, stride, x, ldx, k, out, ldo);
    x += most * ldx, out += most * ldo, t -= most;
  }
  while (t >= 2) {
    multiply<2, PB>(w, stride, x, ldx, k, out, ldo);
    x += 2 * ldx, out += 2 * ldo, t -= 2;
  }
  if (t) multiply<1, PB>(w, stride, x, ldx, k, out, ldo);
}

void multiply_block(int panels, const float* w, size_t stride, const float* x, size_t ldx, int k, float* out,
                    size_t ldo, int t) {
  if (panels == 4 && t <= 3) return multiply_tokens<4>(w, stride, x, ldx, k, out, ldo, t);
  int p = 0;
  for (; p + 2 <= panels; p += 2) multiply_tokens<2>(w + p * stride, stride, x, ldx, k, out + p * kLanes, ldo, t);
  if (p < panels) multiply_tokens<1>(w + p * stride, stride, x, ldx, k, out + p * kLanes, ldo, t);
}

// f(integral_constant<Format>) for the quantised format f names.
template <class Do>
RADIXMILL_INLINE void for_format(Format f, const Do& go) {
  switch (f) {
    case Format::w8: return go(std::integral_constant<Format, Format::w8>());
    case Format::w4: return go(std::integral_constant<Format, Format::w4>());
    case Format::w4s: return go(std::integral_constant<Format, Format::w4s>());
    case Format::w5: return go(std::integral_constant<Format, Format::w5>());
    case Format::w5s: return go(std::integral_constant<Format, Format::w5s>());
    case Format::w2k: return go(std::integral_constant<Format, Format::w2k>());
    case Format::w3k: return go(std::integral_constant<Format, Format::w3k>());
    case Format::w4k: return go(std::integral_constant<Format, Format::w4k>());
    case Format::w5k: return go(std::integral_constant<Format, Format::w5k>());
    case Format::w6k: return go(std::integral_constant<Format, Format::w6k>());
    case Format::w4n: return go(std::integral_constant<Format, Format::w4n>());
    case Format::w4nk: return go(std::integral_constant<Format, Format::w4nk>());
    case Format::w4f: return go(std::integral_constant<Format, Format::w4f>());
    default: __builtin_unreachable();
  }
}

// Codes of values 16h + 4j + b of a group, field = 2j + h.
template <int bits, int field>
RADIXMILL_INLINE VB codes_of(const uint8_t* p) {
  if constexpr (bits == 8)
    return bytes(p + 32 * (field / 2 + 4 * (field % 2)));
  else if constexpr (bits == 4 || bits == 2)
    return plane<bits, field, 0>(p);
  else if constexpr (bits == 3)
    return join(plane<2, field, 0>(p), plane<1, field, 2>(p + 64));
  else
    return join(plane<4, field, 0>(p), plane<bits - 4, field, 4>(p + 128));
}

// The same, or the table's entries for them, as signed bytes.
template <Format F, int field>
RADIXMILL_INLINE VB entries_of(const uint8_t* p) {
  constexpr Layout l = layout(F);
  if constexpr (l.table == Table::none) return codes_of<l.bits, field>(p);
  return lookup(kTables[int(l.table)], codes_of<l.bits, field>(p));
}

template <Format F>
RADIXMILL_INLINE V block_scale(const uint8_t* block) {
  return F == Format::w4f ? load_bf16((const uint16_t*)block) : load_half((const uint16_t*)block);
}

// What turns codes into values, per half of a group.
template <Format F, int h>
RADIXMILL_INLINE V scale_of(const uint8_t* block, int g) {
  constexpr Layout l = layout(F);
  const V scale = block_scale<F>(block);
  if constexpr (l.factors == 2) return mul(scale, half_floats<h>(block + factors_at(l, g)));
  if constexpr (l.factors == 1) return mul(scale, int8_floats(block + factors_at(l, g)));
  return scale;
}
template <Format F, int h>
RADIXMILL_INLINE V minimum_of(const uint8_t* block, int g, V scale) {
  constexpr Layout l = layout(F);
  if constexpr (!l.minimum) return mul(scale, set1(-l.offset));
  const V minimum = load_half((const uint16_t*)block + kLanes);
  if constexpr (l.factors == 2) return mul(minimum, half_floats<h>(block + low_factors_at(l, g)));
  if constexpr (l.factors == 1) return mul(minimum, int8_floats(block + low_factors_at(l, g)));
  return minimum;
}

template <Format F, int field>
RADIXMILL_INLINE void unpack_field(const uint8_t* codes, V scale, V minimum, float* out) {
  const VB all = entries_of<F, field>(codes);
  out += (field % 2 * 16 + field / 2 * 4) * kLanes;
  if constexpr (layout(F).is_signed()) {
    store(out, mul(scale, signed_floats<0>(all)));
    store(out + kLanes, mul(scale, signed_floats<1>(all)));
    store(out + 2 * kLanes, mul(scale, signed_floats<2>(all)));
    store(out + 3 * kLanes, mul(scale, signed_floats<3>(all)));
  } else {
    store(out, fma(scale, unsigned_floats<0>(all), minimum));
    store(out + kLanes, fma(scale, unsigned_floats<1>(all), minimum));
    store(out + 2 * kLanes, fma(scale, unsigned_floats<2>(all), minimum));
    store(out + 3 * kLanes, fma(scale, unsigned_floats<3>(all), minimum));
  }
}

template <Format F, int h>
RADIXMILL_INLINE void unpack_half(const uint8_t* block, int g, float* out) {
  const uint8_t* codes = block + codes_at(layout(F), g);
  const V scale = scale_of<F, h>(block, g), minimum = minimum_of<F, h>(block, g, scale);
  unpack_field<F, h>(codes, scale, minimum, out);
  unpack_field<F, 2 + h>(codes, scale, minimum, out);
  unpack_field<F, 4 + h>(codes, scale, minimum, out);
  unpack_field<F, 6 + h>(codes, scale, minimum, out);
}

// scale · factor · code is exact in float32, so a value rounds once, fused or not.
template <Format F>
void unpack_groups(const uint8_t* panel, int from, int k, float* out) {
  constexpr Layout l = layout(F);
  for (; k > 0; from += kGroup, k -= kGroup, out += kGroup * kLanes) {
    const uint8_t* block = panel + block_bytes(l) * size_t(from / l.block);
    unpack_half<F, 0>(block, from % l.block / kGroup, out);
    unpack_half<F, 1>(block, from % l.block / kGroup, out);
  }
}

// Columns [from, from + k) of one panel as [k][8] floats.
void unpack(Format f, const uint8_t* panel, int from, int k, float* out) {
  if (is_quantised(f)) return for_format(f, [&](auto F) { unpack_groups<decltype(F)::value>(panel, from, k, out); });
  const uint16_t* p = (const uint16_t*)panel + size_t(from) * kLanes;
  for (int i = 0; i < k; i++)
    store(out + i * kLanes, f == Format::f16 ? load_half(p + i * kLanes) : load_bf16(p + i * kLanes));
}

// ── int8 path ──

// Dot products of one group: 8 rows of codes with each of TB rows of int8. Sums of products are taken together before
// int16 could overflow: eight products of 4 bits make 30,480, four of 5 bits 31,496, two of 6 bits 32,004.

template <int bits, int j, int TB>
RADIXMILL_INLINE void add_chunk(const uint8_t* codes, const int8_t* x, size_t ldx, VS* sums) {
  const VB a = codes_of<bits, 2 * j>(codes), b = codes_of<bits, 2 * j + 1>(codes);
  for (int t = 0; t < TB; t++) {
    const int8_t* xt = x + t * ldx + 4 * j;
    const VS s = add_products(products(a, xt), products(b, xt + 16));
    sums[t] = j % 2 == 0 && (bits == 5 || j == 0) ? s : add_products(sums[t], s);
  }
}

// Signed codes: a pair of products fills an int16. Fields in the order of K, first the even ones.
template <Format F, int TB, int i = 0>
RADIXMILL_INLINE void dot_signed(const uint8_t* codes, const int8_t* x, size_t ldx, VI* out) {
  const VB w = entries_of<F, i % 4 * 2 + i / 4>(codes);
  for (int t = 0; t < TB; t++) {
    const VI s = together(signed_products(w, x + t * ldx + 4 * i));
    out[t] = i ? add_int(out[t], s) : s;
  }
  if constexpr (i < 7) dot_signed<F, TB, i + 1>(codes, x, ldx, out);
}

template <int bits, int TB>
RADIXMILL_INLINE void dot_unsigned(const uint8_t* codes, const int8_t* x, size_t ldx, VI* out) {
  VS sums[TB];
  add_chunk<bits, 0, TB>(codes, x, ldx, sums);
  add_chunk<bits, 1, TB>(codes, x, ldx, sums);
  if (bits == 5)
    for (int t = 0; t < TB; t++) out[t] = together(sums[t]);
  add_chunk<bits, 2, TB>(codes, x, ldx, sums);
  add_chunk<bits, 3, TB>(codes, x, ldx, sums);
  for (int t = 0; t < TB; t++) out[t] = bits == 5 ? add_int(out[t], together(sums[t])) : together(sums[t]);
}

// Eight values of half h, from 8i on, times its factor.
template <int bits, int h, int i, int TB>
RADIXMILL_INLINE void add_half(const uint8_t* codes, const Pairs& factors, const int8_t* x, size_t ldx, VI* out) {
  const VB a = codes_of<bits, 4 * i + h>(codes), b = codes_of<bits, 4 * i + 2 + h>(codes);
  for (int t = 0; t < TB; t++) {
    const int8_t* xt = x + t * ldx + 16 * h + 8 * i;
    const VI s = together<h>(add_products(products(a, xt), products(b, xt + 4)), factors);
    out[t] = h || i ? add_int(out[t], s) : s;
  }
}

// The same with a factor for each 16: at most 2 · 16 · 63 · 127 · 128 in int32.
template <int bits, int TB>
RADIXMILL_INLINE void dot_halves(const uint8_t* codes, const Pairs& factors, const int8_t* x, size_t ldx, VI* out) {
  add_half<bits, 0, 0, TB>(codes, factors, x, ldx, out);
  add_half<bits, 0, 1, TB>(codes, factors, x, ldx, out);
  add_half<bits, 1, 0, TB>(codes, factors, x, ldx, out);
  add_half<bits, 1, 1, TB>(codes, factors, x, ldx, out);
}

// One group, added to sum and lows: scale · Σ code · code, and minimum · Σ code. Where 16 values have a factor, that
// and the offset are taken in integers.
template <Format F, int TB>
RADIXMILL_INLINE void add_group(const LinearJob& job, const uint8_t* block, int g, int t0, int at, V* sum, V* lows) {
  constexpr Layout l = layout(F);
  const int groups = job.k / kGroup;
  const int8_t* x = job.codes + size_t(t0) * job.k + size_t(at) * kGroup;
  const float *xs = job.scales + size_t(t0) * groups + at, *xm = job.sums + size_t(t0) * groups + at;
  const uint8_t* codes = block + codes_at(l, g);
  VI dots[TB];
  if constexpr (l.factors == 2) {
    const int16_t* halves = job.halves + (size_t(t0) * groups + at) * 2;
    const Pairs factors = factor_pairs(block + factors_at(l, g));
    dot_halves<l.bits, TB>(codes, factors, x, size_t(job.k), dots);
    const V scale = load_half((const uint16_t*)block);
    for (int t = 0; t < TB; t++) {
      if (l.offset) dots[t] = sub_int(dots[t], mul_int(times_halves(factors, halves + t * groups * 2), l.offset));
      sum[t] = fma(mul(scale, set1(xs[t * groups])), to_float(dots[t]), sum[t]);
    }
    if constexpr (l.minimum) {
      const Pairs low_factors = factor_pairs(block + low_factors_at(l, g));
      const V minimum = load_half((const uint16_t*)block + kLanes);
      for (int t = 0; t < TB; t++) {
        const V low = to_float(times_halves(low_factors, halves + t * groups * 2));
        lows[t] = fma(mul(minimum, set1(xs[t * groups])), low, lows[t]);
      }
    }
  } else {
    if constexpr (l.is_signed())
      dot_signed<F, TB>(codes, x, size_t(job.k), dots);
    else
      dot_unsigned<l.bits, TB>(codes, x, size_t(job.k), dots);
    const V scale = scale_of<F, 0>(block, g);
    for (int t = 0; t < TB; t++) sum[t] = fma(mul(scale, set1(xs[t * groups])), to_float(dots[t]), sum[t]);
    if constexpr (l.minimum || l.offset) {
      const V minimum = minimum_of<F, 0>(block, g, scale);
      for (int t = 0; t < TB; t++) lows[t] = fma(minimum, set1(xm[t * groups]), lows[t]);
    }
  }
}

template <Format F>
constexpr bool has_lows = layout(F).minimum || (layout(F).offset && layout(F).factors < 2);

template <int TB, Format F>
void multiply_int8(const LinearJob& job, const uint8_t* panel, int t0, float* out, size_t ldo) {
  constexpr Layout l = layout(F);
  constexpr int in_block = l.block / kGroup;
  V sum[TB], lows[TB];
  for (int t = 0; t < TB; t++) sum[t] = lows[t] = zero();
  for (int at = 0; at < job.k / kGroup; panel += block_bytes(l))
    for (int g = 0; g < in_block; g++, at++) add_group<F, TB>(job, panel, g, t0, at, sum, lows);
  for (int t = 0; t < TB; t++) store(out + t * ldo, has_lows<F> ? add(sum[t], lows[t]) : sum[t]);
}

template <Format F>
void multiply_int8_tokens(const LinearJob& job, const uint8_t* panel, float* out, size_t ldo) {
  int t = 0;
  for (; t + 4 <= job.t; t += 4) multiply_int8<4, F>(job, panel, t, out + t * ldo, ldo);
  for (; t + 2 <= job.t; t += 2) multiply_int8<2, F>(job, panel, t, out + t * ldo, ldo);
  if (t < job.t) multiply_int8<1, F>(job, panel, t, out + t * ldo, ldo);
}

// ── both ──

void block_f32(const LinearJob& job, int panel, int panels, float* out, size_t ldo, float* unpacked) {
  const size_t bytes = panel_bytes(job.format, job.k);
  for (int t = 0; t < job.t; t++)
    for (int p = 0; p < panels; p++) store(out + t * ldo + p * kLanes, zero());
  for (int from = 0; from < job.k; from += kBlockK) {
    const int k = job.k - from < kBlockK ? job.k - from : kBlockK;
    const float* w = (const float*)(job.panels + panel * bytes) + size_t(from) * kLanes;
    size_t stride = size_t(job.k) * kLanes;
    if (job.format != Format::f32) {
      for (int p = 0; p < panels; p++)
        unpack(job.format, job.panels + (panel + p) * bytes, from, k, unpacked + p * kBlockK * kLanes);
      w = unpacked, stride = kBlockK * kLanes;
    }
    multiply_block(panels, w, stride, job.x + from, size_t(job.k), k, out, ldo, job.t);
  }
}

void block_int8(const LinearJob& job, int panel, int panels, float* out, size_t ldo) {
  const size_t bytes = panel_bytes(job.format, job.k);
  for (int p = 0; p < panels; p++, out += kLanes) {
    const uint8_t* at = job.panels + (panel + p) * bytes;
    for_format(job.format, [&](auto F) { multiply_int8_tokens<decltype(F)::value>(job, at, out, ldo); });
  }
}

size_t linear_scratch(int t) { return size_t(t) * kLanes + kBlockPanels * kBlockK * kLanes; }

// Panels [first, last) of y. The last panel of an N that is no multiple of 8 goes through scratch.
void linear_panels(const LinearJob& job, int first, int last, float* scratch) {
  float* unpacked = scratch + size_t(job.t) * kLanes;
  const int whole = job.n / kLanes;
  for (int panel = first; panel < last;) {
    const bool ragged = panel >= whole;
    const int limit = last < whole ? last : whole;
    const int panels = ragged ? 1 : limit - panel < kBlockPanels ? limit - panel : kBlockPanels;
    const int columns = ragged ? job.n - whole * kLanes : panels * kLanes;
    float* y = job.y + size_t(panel) * kLanes;
    float* out = ragged ? scratch : y;
    const size_t ldo = ragged ? kLanes : job.stride;
    if (job.codes)
      block_int8(job, panel, panels, out, ldo);
    else
      block_f32(job, panel, panels, out, ldo, unpacked);
    for (int t = 0; t < job.t && ragged; t++)
      __builtin_memcpy(y + t * job.stride, out + t * kLanes, size_t(columns) * 4);
    for (int t = 0; t < job.t && job.bias; t++)
      add_rows(y + t * job.stride, job.bias + panel * kLanes, size_t(columns));
    panel += panels;
  }
}

}  // namespace
}  // namespace radixmill
