// Rows of floats → blocks of fewer bits, when a model is loaded. Include after a vec_*.hpp. The rule is written down in
// reference/blocks.py and kept bit by bit: no fused multiply-add here, and every sum is taken by halving.
#pragma once
#include "half.hpp"

namespace radixmill {
namespace {

constexpr int kVectors = kGroup / kLanes;
constexpr float kFlat = 0x1p-30f;  // a block of no more than this from end to end is one value: float16 begins at 2⁻²⁴

struct Group {
  V v[kVectors];
};

template <class F>
RADIXMILL_INLINE Group each(const Group& x, const F& f) {
  Group y;
  for (int i = 0; i < kVectors; i++) y.v[i] = f(x.v[i]);
  return y;
}
// Values i and i + 16, then i and i + 8: what is left of a vector after that is halved by sum_lanes and max_lanes.
template <class F>
RADIXMILL_INLINE V folded(const Group& x, const F& f) {
  if constexpr (kVectors == 2) return f(x.v[0], x.v[1]);
  return f(f(x.v[0], x.v[kVectors / 2]), f(x.v[1], x.v[kVectors - 1]));
}
RADIXMILL_INLINE float sum(const Group& x) { return sum_lanes(folded(x, [](V a, V b) { return add(a, b); })); }
RADIXMILL_INLINE float highest(const Group& x) { return max_lanes(folded(x, [](V a, V b) { return max(a, b); })); }
RADIXMILL_INLINE Group times(const Group& x, const Group& y) {
  Group z;
  for (int i = 0; i < kVectors; i++) z.v[i] = mul(x.v[i], y.v[i]);
  return z;
}

RADIXMILL_INLINE Group group_of(Format f, const uint8_t* p) {
  Group x;
  for (int i = 0; i < kVectors; i++)
    x.v[i] = f == Format::f32   ? load((const float*)p + i * kLanes)
             : f == Format::f16 ? load_half((const uint16_t*)p + i * kLanes)
                                : load_bf16((const uint16_t*)p + i * kLanes);
  return x;
}

void put_half(uint16_t half, uint8_t* out) { __builtin_memcpy(out, &half, 2); }

// Q8_0: scale, then 32 signed codes.
void block_w8(const Group& x, uint8_t* out) {
  const uint16_t half = float_to_half(highest(each(x, [](V v) { return abs(v); })) / 127.0f);
  const V scale = set1(half_to_float(half));
  put_half(half, out);
  for (int i = 0; i < kVectors; i++) {
    const V turned = half ? div(x.v[i], scale) : zero();
    store_int8((int8_t*)out + 2 + i * kLanes, to_int(max(min(turned, set1(127)), set1(-127))));
  }
}

RADIXMILL_INLINE Group line_codes(const Group& x, float low, float inverse, float shift) {
  return each(x, [&](V v) {
    return max(min(round(sub(mul(sub(v, set1(low)), set1(inverse)), set1(shift))), set1(15)), zero());
  });
}

// What codes are multiplied by, and what is added: f16 and what it means.
struct Line {
  uint16_t scale, minimum;

  float slope() const { return half_to_float(scale); }
  float start() const { return half_to_float(minimum); }
  float inverse() const { return slope() > 0 ? 1.0f / slope() : 0.0f; }
};

// The line nearest to x through these codes, by least squares.
RADIXMILL_INLINE Line fitted(const Group& x, float sum_x, const Group& codes) {
  const float q = sum(codes), qq = sum(times(codes, codes)), qx = sum(times(codes, x));
  const float det = 32.0f * qq - q * q;
  const float slope = det > 0 ? (32.0f * qx - q * sum_x) / det : 0.0f;
  return {float_to_half(slope), float_to_half((sum_x - slope * q) / 32.0f)};
}

RADIXMILL_INLINE float squares(const Group& x, Line line) {
  const Group codes = line_codes(x, line.start(), line.inverse(), 0);
  Group rest;
  for (int i = 0; i < kVectors; i++)
    rest.v[i] = sub(sub(x.v[i], set1(line.start())), mul(set1(line.slope()), codes.v[i]));
  return sum(times(rest, rest));
}

// Codes that span a little more or less than x does; of the lines through them, the nearest.
Line nearest(const Group& x) {
  const float high = highest(x), low = -highest(each(x, [](V v) { return sub(zero(), v); })), all = sum(x);
  Line best{};
  float least = 0;
  for (int i = -1; i <= 4; i++) {
    const float more = 0.5f * float(i), inverse = high - low > kFlat ? (15.0f + more) / (high - low) : 0.0f;
    const Line line = fitted(x, all, line_codes(x, low, inverse, 0.5f * more));
    const float error = squares(x, line);
    if (i == -1 || error < least) best = line, least = error;
  }
  return best;
}

// Q4_1: scale, minimum, then 32 codes, value j in the low and j + 16 in the high half of a byte.
void block_w4(const Group& x, uint8_t* out) {
  const Line line = nearest(x);
  const Group codes = line_codes(x, line.start(), line.inverse(), 0);
  put_half(line.scale, out), put_half(line.minimum, out + 2);
  int8_t all[kGroup];
  for (int i = 0; i < kVectors; i++) store_int8(all + i * kLanes, to_int(codes.v[i]));
  for (int i = 0; i < kGroup / 2; i++) out[4 + i] = uint8_t(all[i] | all[i + 16] << 4);
}

// k values of a float format → k / 32 blocks of w8 (34 bytes) or w4 (20 bytes).
void blocks_row(Format from, const uint8_t* x, int k, Format to, uint8_t* out) {
  const size_t step = size_t(kGroup) * (layout(from).bits / 8);
  for (int at = 0; at < k; at += kGroup, x += step, out += to == Format::w8 ? 34 : 20) {
    const Group group = group_of(from, x);
    to == Format::w8 ? block_w8(group, out) : block_w4(group, out);
  }
}

}  // namespace
}  // namespace radixmill
