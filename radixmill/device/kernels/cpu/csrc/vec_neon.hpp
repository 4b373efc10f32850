// Eight floats as two NEON registers (ARMv8-A, little-endian), and the integer products of eight rows of codes: pairs of
// bytes everywhere, four at a time where the machine has SDOT.
#pragma once
#include <arm_neon.h>

#include "kernels.hpp"

namespace radixmill {
namespace {

constexpr int kLanes = 8, kRegisters = 16;  // 32 of them, two to a vector
struct V {
  float32x4_t low, high;
};
struct VI {
  int32x4_t low, high;
};
#define RADIXMILL_INLINE inline __attribute__((always_inline))

RADIXMILL_INLINE V set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
RADIXMILL_INLINE V zero() { return set1(0); }
RADIXMILL_INLINE V load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
RADIXMILL_INLINE void store(float* p, V x) {
  vst1q_f32(p, x.low);
  vst1q_f32(p + 4, x.high);
}
RADIXMILL_INLINE V add(V a, V b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
RADIXMILL_INLINE V sub(V a, V b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
RADIXMILL_INLINE V mul(V a, V b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
RADIXMILL_INLINE V div(V a, V b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
RADIXMILL_INLINE V fma(V a, V b, V c) {
  return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
// A NaN in either operand comes through.
RADIXMILL_INLINE V max(V a, V b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }
RADIXMILL_INLINE V min(V a, V b) { return {vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)}; }
RADIXMILL_INLINE V abs(V a) { return {vabsq_f32(a.low), vabsq_f32(a.high)}; }
RADIXMILL_INLINE float32x4_t with_sign_of(float32x4_t a, float32x4_t s) {
  const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(s), vdupq_n_u32(0x80000000u));
  return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(a), sign));
}
RADIXMILL_INLINE V with_sign_of(V a, V s) { return {with_sign_of(a.low, s.low), with_sign_of(a.high, s.high)}; }
RADIXMILL_INLINE V where_less(V a, V b, V yes, V no) {
  return {vbslq_f32(vcltq_f32(a.low, b.low), yes.low, no.low), vbslq_f32(vcltq_f32(a.high, b.high), yes.high, no.high)};
}
RADIXMILL_INLINE V round(V a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }
RADIXMILL_INLINE bool any_nan(V a) {
  const uint32x4_t numbers = vandq_u32(vceqq_f32(a.low, a.low), vceqq_f32(a.high, a.high));
  return vminvq_u32(numbers) == 0;
}
RADIXMILL_INLINE VI to_int(V a) { return {vcvtnq_s32_f32(a.low), vcvtnq_s32_f32(a.high)}; }
RADIXMILL_INLINE V to_float(VI a) { return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }
RADIXMILL_INLINE VI add_int(VI a, VI b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
RADIXMILL_INLINE VI sub_int(VI a, VI b) { return {vsubq_s32(a.low, b.low), vsubq_s32(a.high, b.high)}; }
RADIXMILL_INLINE VI set1_int(int32_t x) { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
RADIXMILL_INLINE VI half_int(VI a) { return {vshrq_n_s32(a.low, 1), vshrq_n_s32(a.high, 1)}; }
RADIXMILL_INLINE float32x4_t power_of_two(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
RADIXMILL_INLINE V power_of_two(VI n) { return {power_of_two(n.low), power_of_two(n.high)}; }

RADIXMILL_INLINE float sum_lanes(V v) {
  const float32x4_t a = vaddq_f32(v.low, v.high);
  return vaddv_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a)));
}
RADIXMILL_INLINE float max_lanes(V v) { return vmaxvq_f32(vmaxq_f32(v.low, v.high)); }
// The halves of a and those of b added, lane by lane in turns: those of what is left are halves again.
template <int half>
RADIXMILL_INLINE V add_halves(V a, V b) {
  const V low{vzip1q_f32(a.low, b.low), vzip2q_f32(a.low, b.low)};
  const V high{vzip1q_f32(a.high, b.high), vzip2q_f32(a.high, b.high)};
  return add(low, high);
}

RADIXMILL_INLINE V load_half(const uint16_t* p) {
  const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(p));
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
// Values of neighbouring columns from a vector of pairs.
RADIXMILL_INLINE V first_of_pairs(const uint16_t* p) {
  const uint32x4_t low = vreinterpretq_u32_u16(vld1q_u16(p)), high = vreinterpretq_u32_u16(vld1q_u16(p + 8));
  return {vreinterpretq_f32_u32(vshlq_n_u32(low, 16)), vreinterpretq_f32_u32(vshlq_n_u32(high, 16))};
}
RADIXMILL_INLINE V second_of_pairs(const uint16_t* p) {
  const uint32x4_t low = vreinterpretq_u32_u16(vld1q_u16(p)), high = vreinterpretq_u32_u16(vld1q_u16(p + 8));
  const uint32x4_t mask = vdupq_n_u32(0xffff0000);
  return {vreinterpretq_f32_u32(vandq_u32(low, mask)), vreinterpretq_f32_u32(vandq_u32(high, mask))};
}
RADIXMILL_INLINE V load_bf16(const uint16_t* p) {
  const uint16x8_t w = vld1q_u16(p);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(w), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(w, 16))};
}
RADIXMILL_INLINE void store_half(uint16_t* p, V v) {
  vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.low), v.high)));
}

// Eight int8 from eight integers in [−127, 127].
RADIXMILL_INLINE void store_int8(int8_t* p, VI v) {
  vst1_s8(p, vmovn_s16(vcombine_s16(vmovn_s32(v.low), vmovn_s32(v.high))));
}

// ── codes: [8 rows][4 bytes], see formats.hpp ──

struct VB {
  uint8x16_t low, high;
};

RADIXMILL_INLINE VB bytes(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }
RADIXMILL_INLINE void store_bytes(uint8_t* p, VB v) {
  vst1q_u8(p, v.low);
  vst1q_u8(p + 16, v.high);
}

// Bits [from, from + bits) of each byte, at bit `at`.
template <int bits, int from, int at>
RADIXMILL_INLINE uint8x16_t field_of(uint8x16_t w) {
  constexpr int shift = from - at;
  if constexpr (shift > 0) w = vshrq_n_u8(w, shift);
  if constexpr (shift < 0) w = vshlq_n_u8(w, -shift);
  if constexpr (at == 0 && from + bits == 8) return w;  // nothing is left beside it
  return vandq_u8(w, vdupq_n_u8(((1 << bits) - 1) << at));
}
// Field `field` of a plane of `bits` bits, at bit `at` of each byte.
template <int bits, int field, int at>
RADIXMILL_INLINE VB plane(const uint8_t* p) {
  constexpr int fields = 8 / bits, from = bits * (field % fields);
  const VB w = bytes(p + 4 * kLanes * (field / fields));
  return {field_of<bits, from, at>(w.low), field_of<bits, from, at>(w.high)};
}
RADIXMILL_INLINE VB lookup(const int8_t* table, VB codes) {
  const uint8x16_t entries = vreinterpretq_u8_s8(vld1q_s8(table));
  return {vqtbl1q_u8(entries, codes.low), vqtbl1q_u8(entries, codes.high)};
}
RADIXMILL_INLINE VB join(VB a, VB b) { return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)}; }

// Byte b of each row.
template <int b>
RADIXMILL_INLINE float32x4_t unsigned_floats(uint8x16_t codes) {
  const uint32x4_t up = vshlq_n_u32(vreinterpretq_u32_u8(codes), 24 - 8 * b);
  return vcvtq_f32_u32(vshrq_n_u32(up, 24));
}
template <int b>
RADIXMILL_INLINE V unsigned_floats(VB codes) {
  return {unsigned_floats<b>(codes.low), unsigned_floats<b>(codes.high)};
}
template <int b>
RADIXMILL_INLINE float32x4_t signed_floats(uint8x16_t codes) {
  const int32x4_t up = vshlq_n_s32(vreinterpretq_s32_u8(codes), 24 - 8 * b);
  return vcvtq_f32_s32(vshrq_n_s32(up, 24));
}
template <int b>
RADIXMILL_INLINE V signed_floats(VB codes) {
  return {signed_floats<b>(codes.low), signed_floats<b>(codes.high)};
}
RADIXMILL_INLINE VI widened(int16x8_t v) { return {vmovl_s16(vget_low_s16(v)), vmovl_high_s16(v)}; }
// Eight int8.
RADIXMILL_INLINE V int8_floats(const uint8_t* p) {
  return to_float(widened(vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)))));
}
// E4M3FN: as float16, whose exponent is 8 less, its two codes of all ones made NaN.
RADIXMILL_INLINE V f8_floats(const uint8_t* p) {
  const uint16x8_t wide = vreinterpretq_u16_s16(vshlq_n_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(p))), 7));
  const uint16x8_t ones = vdupq_n_u16(0x3f80), nan = vceqq_u16(vandq_u16(wide, ones), ones);
  const float16x8_t half = vreinterpretq_f16_u16(vorrq_u16(vandq_u16(wide, vdupq_n_u16(0xbfff)), nan));
  return mul({vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)}, set1(256));
}
// Item h of eight pairs of int8.
template <int h>
RADIXMILL_INLINE VI half_ints(const uint8_t* p) {
  const int16x8_t pairs = vreinterpretq_s16_u8(vld1q_u8(p));
  return widened(vshrq_n_s16(h ? pairs : vshlq_n_s16(pairs, 8), 8));
}
template <int h>
RADIXMILL_INLINE V half_floats(const uint8_t* p) {
  return to_float(half_ints<h>(p));
}

// ── products of codes with int8 activations ──

// Four bytes, over and over.
RADIXMILL_INLINE int8x16_t broadcast4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

// Four int16 per row, two rows to a register: each a sum of single products, to be added and then taken together. Of
// unsigned codes they stay below 2¹⁵ where pairs of them do; see dots_pairs.hpp.
struct VS {
  int16x8_t a, b, c, d;
};
RADIXMILL_INLINE VS add_products(VS x, VS y) {
  return {vaddq_s16(x.a, y.a), vaddq_s16(x.b, y.b), vaddq_s16(x.c, y.c), vaddq_s16(x.d, y.d)};
}
RADIXMILL_INLINE VI together(VS s) { return {vpaddlq_s16(vpaddq_s16(s.a, s.b)), vpaddlq_s16(vpaddq_s16(s.c, s.d))}; }

// Activations x[0..3] with the codes of every row as signed bytes: unsigned ones are at most 63.
RADIXMILL_INLINE VS signed_products(VB codes, const int8_t* x) {
  const int8x16_t low = vreinterpretq_s8_u8(codes.low), high = vreinterpretq_s8_u8(codes.high), four = broadcast4(x);
  return {vmull_s8(vget_low_s8(low), vget_low_s8(four)), vmull_high_s8(low, four),
          vmull_s8(vget_low_s8(high), vget_low_s8(four)), vmull_high_s8(high, four)};
}
RADIXMILL_INLINE VS products(VB codes, const int8_t* x) { return signed_products(codes, x); }

RADIXMILL_INLINE VI mul_ints(VI a, VI b) { return {vmulq_s32(a.low, b.low), vmulq_s32(a.high, b.high)}; }
RADIXMILL_INLINE VI mul_int(VI a, int by) { return {vmulq_n_s32(a.low, by), vmulq_n_s32(a.high, by)}; }

// Two factors per row.
struct Pairs {
  VI first, second;
};
RADIXMILL_INLINE Pairs factor_pairs(const uint8_t* p) { return {half_ints<0>(p), half_ints<1>(p)}; }
template <int h>
RADIXMILL_INLINE VI together(VS s, const Pairs& factors) {
  return mul_ints(together(s), h ? factors.second : factors.first);
}
// first · halves[0] + second · halves[1], per row.
RADIXMILL_INLINE VI times_halves(const Pairs& factors, const int16_t* halves) {
  return add_int(mul_int(factors.first, halves[0]), mul_int(factors.second, halves[1]));
}

#ifdef __ARM_FEATURE_DOTPROD
constexpr int kSignedBias = 0;  // dot4 is signed by signed: unsigned codes, at most 63, fit as well
RADIXMILL_INLINE VB biased(VB codes) { return codes; }

// acc + Σ of four codes of every row times x[0..3].
RADIXMILL_INLINE VI dot4(VI acc, VB codes, const int8_t* x) {
  const int8x16_t four = broadcast4(x);
  return {vdotq_s32(acc.low, vreinterpretq_s8_u8(codes.low), four),
          vdotq_s32(acc.high, vreinterpretq_s8_u8(codes.high), four)};
}
// Times 0, or a power of two.
template <int by>
RADIXMILL_INLINE VI times_power(VI a) {
  if constexpr (by == 0)
    return set1_int(0);
  else
    return {vshlq_n_s32(a.low, __builtin_ctz(by)), vshlq_n_s32(a.high, __builtin_ctz(by))};
}
#endif

}  // namespace
}  // namespace radixmill
