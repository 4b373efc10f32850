// y = x · Wᵀ (+ bias), 8 weight rows at a time. Include after a vec_*.hpp.
//
// The order of every sum is fixed: K ascends, one multiply-add per value (f32 path) or two per group of 32 (int8 path:
// scale · Σ code · code, and minimum · Σ code, in two sums added at the end). How many tokens or panels share the
// registers changes nothing in it, and neither do the blocks of K, between which the sums rest in memory as the floats
// they are.
#pragma once

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

template <int j>
RADIXMILL_INLINE void unpack_nibbles(const uint8_t* chunk, V scale, V minimum, float* out) {
  store(out + (4 * j + 0) * kLanes, fma(scale, nibbles<0>(chunk), minimum));
  store(out + (4 * j + 1) * kLanes, fma(scale, nibbles<8>(chunk), minimum));
  store(out + (4 * j + 2) * kLanes, fma(scale, nibbles<16>(chunk), minimum));
  store(out + (4 * j + 3) * kLanes, fma(scale, nibbles<24>(chunk), minimum));
  store(out + (4 * j + 16) * kLanes, fma(scale, nibbles<4>(chunk), minimum));
  store(out + (4 * j + 17) * kLanes, fma(scale, nibbles<12>(chunk), minimum));
  store(out + (4 * j + 18) * kLanes, fma(scale, nibbles<20>(chunk), minimum));
  store(out + (4 * j + 19) * kLanes, fma(scale, nibbles<28>(chunk), minimum));
}

RADIXMILL_INLINE const uint16_t* scales_of(Format f, const uint8_t* group) {
  return (const uint16_t*)(group + code_bytes(f));
}

RADIXMILL_INLINE V minimum_of(Format f, const uint8_t* group, V scale) {
  return f == Format::w4 ? load_half(scales_of(f, group) + kLanes) : mul(scale, set1(-8));
}

// scale · code is exact in float32, so a value rounds once, fused or not.
void unpack_group(Format f, const uint8_t* group, float* out) {
  const V scale = load_half(scales_of(f, group));
  if (f == Format::w8) {
    for (int j = 0; j < 8; j++, group += 32, out += 4 * kLanes) {
      store(out, mul(scale, signed_bytes<0>(group)));
      store(out + kLanes, mul(scale, signed_bytes<1>(group)));
      store(out + 2 * kLanes, mul(scale, signed_bytes<2>(group)));
      store(out + 3 * kLanes, mul(scale, signed_bytes<3>(group)));
    }
    return;
  }
  const V minimum = minimum_of(f, group, scale);
  unpack_nibbles<0>(group, scale, minimum, out);
  unpack_nibbles<1>(group + 32, scale, minimum, out);
  unpack_nibbles<2>(group + 64, scale, minimum, out);
  unpack_nibbles<3>(group + 96, scale, minimum, out);
}

// Columns [from, from + k) of one panel as [k][8] floats.
void unpack(Format f, const uint8_t* panel, int from, int k, float* out) {
  if (is_quantised(f)) {
    for (int g = from / kGroup; g * kGroup < from + k; g++, out += kGroup * kLanes)
      unpack_group(f, panel + g * group_bytes(f), out);
    return;
  }
  const uint16_t* p = (const uint16_t*)panel + size_t(from) * kLanes;
  for (int i = 0; i < k; i++)
    store(out + i * kLanes, f == Format::f16 ? load_half(p + i * kLanes) : load_bf16(p + i * kLanes));
}

// ── int8 path ──

template <int TB, Format F>
void multiply_int8(const LinearJob& job, const uint8_t* panel, int t0, float* out, size_t ldo) {
  const int groups = job.k / kGroup;
  const int8_t* x = job.codes + size_t(t0) * job.k;
  const float *xs = job.scales + size_t(t0) * groups, *xm = job.sums + size_t(t0) * groups;
  V sum[TB], lows[TB];
  for (int t = 0; t < TB; t++) sum[t] = lows[t] = zero();
  for (int g = 0; g < groups; g++, panel += group_bytes(F), x += kGroup) {
    VI dots[TB];
    if constexpr (F == Format::w8)
      dot_w8<TB>(panel, x, size_t(job.k), dots);
    else
      dot_w4<TB>(panel, x, size_t(job.k), dots);
    const V scale = load_half(scales_of(F, panel));
    for (int t = 0; t < TB; t++) sum[t] = fma(mul(scale, set1(xs[t * groups + g])), to_float(dots[t]), sum[t]);
    if constexpr (F != Format::w8) {
      const V minimum = minimum_of(F, panel, scale);
      for (int t = 0; t < TB; t++) lows[t] = fma(minimum, set1(xm[t * groups + g]), lows[t]);
    }
  }
  for (int t = 0; t < TB; t++) store(out + t * ldo, F == Format::w8 ? sum[t] : add(sum[t], lows[t]));
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
    switch (job.format) {
      case Format::w4: multiply_int8_tokens<Format::w4>(job, at, out, ldo); break;
      case Format::w4s: multiply_int8_tokens<Format::w4s>(job, at, out, ldo); break;
      default: multiply_int8_tokens<Format::w8>(job, at, out, ldo);
    }
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
    const size_t ldo = ragged ? kLanes : size_t(job.n);
    if (job.codes)
      block_int8(job, panel, panels, out, ldo);
    else
      block_f32(job, panel, panels, out, ldo, unpacked);
    for (int t = 0; t < job.t && ragged; t++)
      __builtin_memcpy(y + size_t(t) * job.n, out + t * kLanes, size_t(columns) * 4);
    for (int t = 0; t < job.t && job.bias; t++)
      add_rows(y + size_t(t) * job.n, job.bias + panel * kLanes, size_t(columns));
    panel += panels;
  }
}

}  // namespace
}  // namespace radixmill
