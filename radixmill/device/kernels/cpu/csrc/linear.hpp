// y = x · Wᵀ (+ bias), a panel of weight rows at a time. Include after a vec_*.hpp and its dots_*.hpp.
//
// The order of every sum is fixed: K ascends, one multiply-add per value (f32 path) or per group of 32 (int8 path:
// scale · Σ code · code, in integers within the group; and minimum · Σ code in a second sum, added at the end). How many tokens or panels share the
// registers changes nothing in it, and neither do the blocks of K, between which the sums rest in memory as the floats
// they are.
#pragma once
#include <type_traits>

namespace radixmill {
namespace {

constexpr int kBlockK = 128;     // columns unpacked at a time: 4 panels of them make 16 KiB
constexpr int kBlockPanels = 4;  // panels that share a pass over x

// ── f32 path ──

// out[t][p] += Σ_k w[p][k] · x[t][k] for TB tokens and PB panels.
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
  constexpr int most = kRegisters / 16 * (PB == 4 ? 3 : 6);  // as many sums as the registers hold
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
  if (panels == 4 && (t <= 3 || kRegisters == 32)) return multiply_tokens<4>(w, stride, x, ldx, k, out, ldo, t);
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

template <Format F>
RADIXMILL_INLINE V block_scale(const uint8_t* block) {
  return F == Format::w4f ? load_bf16((const uint16_t*)block) : load_half((const uint16_t*)block);
}

// What turns codes into values, per half of a group.
template <Format F, int h>
RADIXMILL_INLINE V scale_of(const uint8_t* block, int g) {
  constexpr Layout l = layout(F);
  const V scale = block_scale<F>(block);
  if constexpr (l.factors == 2) return mul(scale, half_floats<h>(block + factors_at(l, g, kLanes)));
  if constexpr (l.factors == 1) return mul(scale, int8_floats(block + factors_at(l, g, kLanes)));
  return scale;
}
template <Format F, int h>
RADIXMILL_INLINE V minimum_of(const uint8_t* block, int g, V scale) {
  constexpr Layout l = layout(F);
  if constexpr (!l.minimum) return mul(scale, set1(-l.offset));
  const V minimum = load_half((const uint16_t*)block + kLanes);
  if constexpr (l.factors == 2) return mul(minimum, half_floats<h>(block + low_factors_at(l, g, kLanes)));
  if constexpr (l.factors == 1) return mul(minimum, int8_floats(block + low_factors_at(l, g, kLanes)));
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
  const uint8_t* codes = block + codes_at(layout(F), g, kLanes);
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
    const uint8_t* block = panel + block_bytes(l, kLanes) * size_t(from / l.block);
    unpack_half<F, 0>(block, from % l.block / kGroup, out);
    unpack_half<F, 1>(block, from % l.block / kGroup, out);
  }
}

void unpack_f8(const uint8_t* panel, int from, int k, float* out) {
  constexpr int size = layout(Format::f8).block;
  static_assert(kBlockK % size == 0);  // so that `from` begins a block
  for (; k > 0; from += size, k -= size) {
    const uint8_t *block = panel + f8_block_bytes(kLanes) * size_t(from / size), *codes = block + 4 * kLanes;
    const V scale = load((const float*)block);
    for (int i = 0; i < size; i++, codes += kLanes, out += kLanes) store(out, mul(f8_floats(codes), scale));
  }
}

// Columns [from, from + k) of one panel as [k][lanes] floats.
void unpack(Format f, const uint8_t* panel, int from, int k, float* out) {
  if (is_quantised(f)) return for_format(f, [&](auto F) { unpack_groups<decltype(F)::value>(panel, from, k, out); });
  if (f == Format::f8) return unpack_f8(panel, from, k, out);
  const uint16_t* p = (const uint16_t*)panel + size_t(from) * kLanes;  // `from` is even
  if (f == Format::f16) {
    for (int i = 0; i < k; i++) store(out + i * kLanes, load_half(p + i * kLanes));
    return;
  }
  for (int i = 0; i < k; i += 2) {
    store(out + i * kLanes, first_of_pairs(p + i * kLanes));
    if (i + 1 < k) store(out + (i + 1) * kLanes, second_of_pairs(p + i * kLanes));
  }
}

// ── int8 path ──

// One group, added to sum and lows: scale · Σ code · code, and minimum · Σ code. `codes`: its own, in their block or ready.
template <Format F, Lie lie, int TB>
RADIXMILL_INLINE void add_group(const LinearJob& job, const uint8_t* block, const uint8_t* codes, int g, int t0, int at,
                                V* sum, V* lows) {
  constexpr Layout l = layout(F);
  const size_t k = size_t(job.k), groups = k / kGroup, first = t0 * groups + at;
  const int8_t* x = job.codes.codes + t0 * k + size_t(at) * kGroup;
  const float *xs = job.codes.scales + first, *xm = job.codes.sums + first;
  const int16_t* halves = job.codes.halves + 2 * first;
  VI dots[TB];
  V scale;
  if constexpr (l.factors == 2) {
    dot_halves<F, lie, TB>(codes, factor_pairs(block + factors_at(l, g, kLanes)), x, k, halves, 2 * groups, dots);
    scale = load_half((const uint16_t*)block);
  } else {
    dot_group<F, lie, TB>(codes, x, k, job.codes.minus + first, groups, dots);
    scale = scale_of<F, 0>(block, g);
  }
  for (int t = 0; t < TB; t++) sum[t] = fma(mul(scale, set1(xs[t * groups])), to_float(dots[t]), sum[t]);
  if constexpr (l.minimum && l.factors == 2) {
    const Pairs factors = factor_pairs(block + low_factors_at(l, g, kLanes));
    const V minimum = load_half((const uint16_t*)block + kLanes);
    for (int t = 0; t < TB; t++) {
      const V low = to_float(times_halves(factors, halves + 2 * t * groups));
      lows[t] = fma(mul(minimum, set1(xs[t * groups])), low, lows[t]);
    }
  } else if constexpr (l.minimum) {
    const V minimum = minimum_of<F, 0>(block, g, scale);
    for (int t = 0; t < TB; t++) lows[t] = fma(minimum, set1(xm[t * groups]), lows[t]);
  }
}

// The first tokens find a panel in memory, and the processor's own prefetcher stops at every page of that. Asking for what
// lies this far ahead, mostly the next panel, took 10 to 28 % off a step of 1 to 16 tokens.
constexpr size_t kAhead = 4096;

RADIXMILL_INLINE void ask_for(const uint8_t* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

template <int TB, Format F>
void multiply_int8(const LinearJob& job, const uint8_t* panel, int t0, float* out, size_t ldo) {
  constexpr Layout l = layout(F);
  constexpr int in_block = l.block / kGroup;
  V sum[TB], lows[TB];
  for (int t = 0; t < TB; t++) sum[t] = lows[t] = zero();
  for (int at = 0; at < job.k / kGroup; panel += block_bytes(l, kLanes)) {
    if (t0 == 0) ask_for(panel + kAhead, block_bytes(l, kLanes));
    for (int g = 0; g < in_block; g++, at++)
      add_group<F, Lie::packed, TB>(job, panel, panel + codes_at(l, g, kLanes), g, t0, at, sum, lows);
  }
  for (int t = 0; t < TB; t++) store(out + t * ldo, l.minimum ? add(sum[t], lows[t]) : sum[t]);
}

template <Format F>
void multiply_int8_tokens(const LinearJob& job, const uint8_t* panel, float* out, size_t ldo) {
  int t = 0;
  if constexpr (kRegisters == 32)
    for (; t + 8 <= job.t; t += 8) multiply_int8<8, F>(job, panel, t, out + t * ldo, ldo);
  for (; t + 4 <= job.t; t += 4) multiply_int8<4, F>(job, panel, t, out + t * ldo, ldo);
  for (; t + 2 <= job.t; t += 2) multiply_int8<2, F>(job, panel, t, out + t * ldo, ldo);
  if (t < job.t) multiply_int8<1, F>(job, panel, t, out + t * ldo, ldo);
}

// For many tokens a panel's codes are unpacked once, some groups at a time, between which the sums rest in memory: a
// tenth to a sixth faster where unpacking takes more than a shift and a mask.
constexpr int kReadyGroups = 32;
constexpr int kReadyTokens = kRegisters;  // from so many on it pays

template <Format F>
constexpr bool pays_ready = layout(F).is_signed() || (layout(F).bits != 4 && layout(F).bits != 2);

struct Ready {
  const uint8_t *panel, *codes;
  int first, count;  // groups
  float *sums, *lows;  // [t, lanes]
};

template <int TB, Format F>
void multiply_ready(const LinearJob& job, const Ready& ready, int t0) {
  constexpr Layout l = layout(F);
  constexpr int in_block = l.block / kGroup;
  V sum[TB], lows[TB];
  for (int t = 0; t < TB; t++) {
    sum[t] = load(ready.sums + (t0 + t) * kLanes);
    if (l.minimum) lows[t] = load(ready.lows + (t0 + t) * kLanes);
  }
  for (int i = 0; i < ready.count; i++) {
    const int at = ready.first + i;
    add_group<F, Lie::ready, TB>(job, ready.panel + block_bytes(l, kLanes) * size_t(at / in_block),
                                 ready.codes + size_t(i) * kGroup * kLanes, at % in_block, t0, at, sum, lows);
  }
  for (int t = 0; t < TB; t++) {
    store(ready.sums + (t0 + t) * kLanes, sum[t]);
    if (l.minimum) store(ready.lows + (t0 + t) * kLanes, lows[t]);
  }
}

template <Format F>
void multiply_ready_tokens(const LinearJob& job, const Ready& ready) {
  int t = 0;
  if constexpr (kRegisters == 32)
    for (; t + 8 <= job.t; t += 8) multiply_ready<8, F>(job, ready, t);
  for (; t + 4 <= job.t; t += 4) multiply_ready<4, F>(job, ready, t);
  for (; t + 2 <= job.t; t += 2) multiply_ready<2, F>(job, ready, t);
  if (t < job.t) multiply_ready<1, F>(job, ready, t);
}

template <Format F>
void multiply_unpacked(const LinearJob& job, const uint8_t* panel, float* out, size_t ldo, float* scratch) {
  constexpr Layout l = layout(F);
  constexpr int in_block = l.block / kGroup;
  float *sums = scratch, *lows = scratch + size_t(job.t) * kLanes;
  uint8_t* codes = (uint8_t*)(scratch + 2 * size_t(job.t) * kLanes);
  __builtin_memset(scratch, 0, 2 * size_t(job.t) * kLanes * 4);
  for (int first = 0; first < job.k / kGroup; first += kReadyGroups) {
    const int rest = job.k / kGroup - first, count = rest < kReadyGroups ? rest : kReadyGroups;
    for (int i = 0; i < count; i++) {
      const uint8_t* block = panel + block_bytes(l, kLanes) * size_t((first + i) / in_block);
      const uint8_t* packed = block + codes_at(l, (first + i) % in_block, kLanes);
      ask_for(packed + kAhead, group_bytes(l, kLanes));
      make_ready<F>(packed, codes + size_t(i) * kGroup * kLanes);
    }
    multiply_ready_tokens<F>(job, {panel, codes, first, count, sums, lows});
  }
  for (int t = 0; t < job.t; t++) {
    const V sum = load(sums + t * kLanes);
    store(out + t * ldo, l.minimum ? add(sum, load(lows + t * kLanes)) : sum);
  }
}

// ── bf16 path ──

#ifdef __AVX512BF16__
constexpr auto to_bf16 = [](const float* x, int k, uint16_t* row) {
  for (int i = 0; i < k; i += kLanes) {
    uint16_t all[kLanes];
    store_bf16(all, load_some(x + i, k - i));
    __builtin_memcpy(row + i, all, size_t(k + k % 2 - i < kLanes ? k + k % 2 - i : kLanes) * 2);
  }
};

// out[t][p] += Σ_k w[p][k] · x[t][k], two columns at a time, for TB tokens and PB panels.
template <int TB, int PB>
void multiply_pairs(const uint16_t* w, size_t panel_stride, const uint16_t* x, size_t ldx, int k, float* out,
                    size_t ldo) {
  V sum[TB][PB];
  for (int t = 0; t < TB; t++)
    for (int p = 0; p < PB; p++) sum[t][p] = load(out + t * ldo + p * kLanes);
  for (int i = 0; i < k; i += 2)
    for (int t = 0; t < TB; t++)
      for (int p = 0; p < PB; p++)
        sum[t][p] = dot2(sum[t][p], w + p * panel_stride + size_t(i) * kLanes, x + t * ldx + i);
  for (int t = 0; t < TB; t++)
    for (int p = 0; p < PB; p++) store(out + t * ldo + p * kLanes, sum[t][p]);
}

template <int PB>
void multiply_pairs_tokens(const uint16_t* w, size_t stride, const uint16_t* x, size_t ldx, int k, float* out,
                           size_t ldo, int t) {
  for (; t >= 6; x += 6 * ldx, out += 6 * ldo, t -= 6) multiply_pairs<6, PB>(w, stride, x, ldx, k, out, ldo);
  for (; t >= 2; x += 2 * ldx, out += 2 * ldo, t -= 2) multiply_pairs<2, PB>(w, stride, x, ldx, k, out, ldo);
  if (t) multiply_pairs<1, PB>(w, stride, x, ldx, k, out, ldo);
}

void block_bf16(const LinearJob& job, int panel, int panels, float* out, size_t ldo) {
  const size_t stride = panel_bytes(job.format, job.k, kLanes) / 2, ldx = size_t(job.k + job.k % 2);
  for (int t = 0; t < job.t; t++)
    for (int p = 0; p < panels; p++) store(out + t * ldo + p * kLanes, zero());
  for (int from = 0; from < job.k; from += 2 * kBlockK) {
    const int k = job.k - from < 2 * kBlockK ? job.k - from : 2 * kBlockK;
    const uint16_t* w = (const uint16_t*)job.panels + size_t(panel) * stride + size_t(from) * kLanes;
    if (panels == 4)
      multiply_pairs_tokens<4>(w, stride, job.pairs + from, ldx, k, out, ldo, job.t);
    else
      for (int p = 0; p < panels; p++)
        multiply_pairs_tokens<1>(w + p * stride, stride, job.pairs + from, ldx, k, out + p * kLanes, ldo, job.t);
  }
}
#else
constexpr void (*to_bf16)(const float*, int, uint16_t*) = nullptr;
void block_bf16(const LinearJob&, int, int, float*, size_t) {}
#endif

// ── all ──

void block_f32(const LinearJob& job, int panel, int panels, float* out, size_t ldo, float* unpacked) {
  const size_t bytes = panel_bytes(job.format, job.k, kLanes);
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
    multiply_block(panels, w, stride, job.x + from, job.pitch(), k, out, ldo, job.t);
  }
}

void block_int8(const LinearJob& job, int panel, int panels, float* out, size_t ldo, float* scratch) {
  const size_t bytes = panel_bytes(job.format, job.k, kLanes);
  for (int p = 0; p < panels; p++, out += kLanes) {
    const uint8_t* at = job.panels + (panel + p) * bytes;
    for_format(job.format, [&](auto F) {
      constexpr Format f = decltype(F)::value;
      if constexpr (pays_ready<f>)
        if (job.t >= kReadyTokens) return multiply_unpacked<f>(job, at, out, ldo, scratch);
      multiply_int8_tokens<f>(job, at, out, ldo);
    });
  }
}

constexpr int kBlockTokens = 64;  // tokens whose codes stay in a near cache while panels pass by

static_assert(2 * kBlockTokens * kLanes * 4 + kReadyGroups * kGroup * kLanes <= kBlockPanels * kBlockK * kLanes * 4);

size_t linear_scratch(int t) {
  return size_t(t < kBlockTokens ? t : kBlockTokens) * kBlockPanels * kLanes + kBlockPanels * kBlockK * kLanes;
}

// `panels` panels of y for all tokens of the job. A ragged last panel, and sums that are added to y, go through scratch.
void linear_block(const LinearJob& job, int panel, int panels, float* scratch) {
  float *y = job.y + size_t(panel) * kLanes, *unpacked = scratch + size_t(job.t) * kBlockPanels * kLanes;
  const int rest = job.n - panel * kLanes, columns = rest < panels * kLanes ? rest : panels * kLanes;
  const bool direct = columns == panels * kLanes && !job.add;
  float* out = direct ? y : scratch;
  const size_t ldo = direct ? job.stride : size_t(panels) * kLanes;
  if (job.codes.codes)
    block_int8(job, panel, panels, out, ldo, unpacked);
  else if (job.pairs)
    block_bf16(job, panel, panels, out, ldo);
  else
    block_f32(job, panel, panels, out, ldo, unpacked);
  for (int t = 0; t < job.t; t++) {
    if (job.bias) add_rows(out + t * ldo, job.bias + panel * kLanes, size_t(columns));
    if (job.add)
      add_rows(y + t * job.stride, out + t * ldo, size_t(columns));
    else if (!direct)
      __builtin_memcpy(y + t * job.stride, out + t * ldo, size_t(columns) * 4);
  }
}

// Panels [first, last) of y.
void linear_panels(const LinearJob& job, int first, int last, float* scratch) {
  for (int from = 0; from < job.t; from += kBlockTokens) {
    LinearJob part = job;
    part.t = job.t - from < kBlockTokens ? job.t - from : kBlockTokens;
    part.y = job.y + from * job.stride;
    if (job.x) part.x = job.x + size_t(from) * job.pitch();
    if (job.codes.codes) part.codes = job.codes.row(from, job.k);
    if (job.pairs) part.pairs = job.pairs + size_t(from) * (job.k + job.k % 2);
    for (int panel = first; panel < last; panel += kBlockPanels)
      linear_block(part, panel, last - panel < kBlockPanels ? last - panel : kBlockPanels, scratch), beat(job.word);
  }
}

}  // namespace
}  // namespace radixmill
