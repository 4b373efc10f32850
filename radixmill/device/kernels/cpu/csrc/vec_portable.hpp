// Eight floats as a GCC/Clang vector: whatever the compiler's baseline makes of them. No fused multiply-add.
#pragma once
#include "half.hpp"
#include "kernels.hpp"

namespace radixmill {
namespace {

constexpr int kLanes = 8, kRegisters = 16;
typedef float V __attribute__((vector_size(32)));
typedef int32_t VI __attribute__((vector_size(32)));
typedef uint32_t VU __attribute__((vector_size(32)));
#define RADIXMILL_INLINE inline __attribute__((always_inline))

RADIXMILL_INLINE V set1(float x) { return V{x, x, x, x, x, x, x, x}; }
RADIXMILL_INLINE V zero() { return set1(0); }
RADIXMILL_INLINE V load(const float* p) {
  V v;
  memcpy(&v, p, 32);
  return v;
}
RADIXMILL_INLINE void store(float* p, V x) { memcpy(p, &x, 32); }
RADIXMILL_INLINE V add(V a, V b) { return a + b; }
RADIXMILL_INLINE V sub(V a, V b) { return a - b; }
RADIXMILL_INLINE V mul(V a, V b) { return a * b; }
RADIXMILL_INLINE V div(V a, V b) { return a / b; }
RADIXMILL_INLINE V fma(V a, V b, V c) { return a * b + c; }
// A NaN in the second operand comes through.
RADIXMILL_INLINE V max(V a, V b) { return a > b ? a : b; }
RADIXMILL_INLINE V min(V a, V b) { return a < b ? a : b; }
RADIXMILL_INLINE V abs(V a) { return (V)((VI)a & 0x7fffffff); }
RADIXMILL_INLINE V with_sign_of(V a, V s) { return (V)((VI)a | ((VI)s & int32_t(0x80000000))); }
RADIXMILL_INLINE V where_less(V a, V b, V yes, V no) { return a < b ? yes : no; }
// Half to even, by pushing the fraction out of the mantissa; values of 2²² and more are integers or saturate anyway.
RADIXMILL_INLINE V round(V a) {
  const V magic = with_sign_of(set1(8388608.0f), a);
  return abs(a) < 4194304.0f ? with_sign_of(abs((a + magic) - magic), a) : a;
}
RADIXMILL_INLINE bool any_nan(V a) {
  const VI bad = a != a;
  int32_t any = 0;
  for (int i = 0; i < kLanes; i++) any |= bad[i];
  return any != 0;
}
RADIXMILL_INLINE VI to_int(V a) {
  const V safe = abs(a) < 1e9f ? round(a) : set1(0);
  return __builtin_convertvector(safe, VI);
}
RADIXMILL_INLINE V to_float(VI a) { return __builtin_convertvector(a, V); }
RADIXMILL_INLINE VI add_int(VI a, VI b) { return a + b; }
RADIXMILL_INLINE VI sub_int(VI a, VI b) { return a - b; }
RADIXMILL_INLINE VI set1_int(int32_t x) { return VI{x, x, x, x, x, x, x, x}; }
RADIXMILL_INLINE VI half_int(VI a) { return a >> 1; }
RADIXMILL_INLINE V power_of_two(VI n) { return (V)((n + 127) << 23); }

RADIXMILL_INLINE float sum_lanes(V v) {
  const float a = v[0] + v[4], b = v[1] + v[5], c = v[2] + v[6], d = v[3] + v[7];
  return (a + c) + (b + d);
}
RADIXMILL_INLINE float max_lanes(V v) {
  float m = v[0];
  for (int i = 1; i < kLanes; i++) m = v[i] > m ? v[i] : m;
  return m;
}
// The halves of a and those of b added, lane by lane in turns: those of what is left are halves again.
template <int half>
RADIXMILL_INLINE V add_halves(V a, V b) {
  return add(V{a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]}, V{a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]});
}

RADIXMILL_INLINE V load_half(const uint16_t* p) {
  V v;
  for (int i = 0; i < kLanes; i++) v[i] = half_to_float(p[i]);
  return v;
}
RADIXMILL_INLINE V first_of_pairs(const uint16_t* p) {
  V v;
  for (int i = 0; i < kLanes; i++) v[i] = bf16_to_float(p[2 * i]);
  return v;
}
RADIXMILL_INLINE V second_of_pairs(const uint16_t* p) { return first_of_pairs(p + 1); }
RADIXMILL_INLINE V load_bf16(const uint16_t* p) {
  V v;
  for (int i = 0; i < kLanes; i++) v[i] = bf16_to_float(p[i]);
  return v;
}
RADIXMILL_INLINE void store_half(uint16_t* p, V v) {
  for (int i = 0; i < kLanes; i++) p[i] = float_to_half(v[i]);
}

RADIXMILL_INLINE void store_int8(int8_t* p, VI v) {
  for (int i = 0; i < kLanes; i++) p[i] = int8_t(v[i]);
}

// ── codes: [8 rows][4 bytes], see formats.hpp ──

typedef uint8_t VB __attribute__((vector_size(32)));

RADIXMILL_INLINE VB bytes(const uint8_t* p) {
  VB v;
  memcpy(&v, p, 32);
  return v;
}
RADIXMILL_INLINE void store_bytes(uint8_t* p, VB v) { memcpy(p, &v, 32); }
// Field `field` of a plane of `bits` bits, at bit `at` of each byte.
template <int bits, int field, int at>
RADIXMILL_INLINE VB plane(const uint8_t* p) {
  constexpr int fields = 8 / bits;
  return ((bytes(p + 32 * (field / fields)) >> (bits * (field % fields))) & uint8_t((1 << bits) - 1)) << at;
}
RADIXMILL_INLINE VB lookup(const int8_t* table, VB codes) {
  VB v;
  for (int i = 0; i < 32; i++) v[i] = uint8_t(table[codes[i]]);
  return v;
}
RADIXMILL_INLINE VB join(VB a, VB b) { return a | b; }

template <int b>
RADIXMILL_INLINE V unsigned_floats(VB codes) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = float(codes[4 * r + b]);
  return v;
}
template <int b>
RADIXMILL_INLINE V signed_floats(VB codes) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = float(int8_t(codes[4 * r + b]));
  return v;
}
RADIXMILL_INLINE V int8_floats(const uint8_t* p) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = float(int8_t(p[r]));
  return v;
}
RADIXMILL_INLINE V f8_floats(const uint8_t* p) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = f8_to_float(p[r]);
  return v;
}
template <int h>
RADIXMILL_INLINE V half_floats(const uint8_t* p) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = float(int8_t(p[2 * r + h]));
  return v;
}

// ── products of codes with int8 activations ──

// One int32 per row.
struct VS {
  VI sum{};
};
RADIXMILL_INLINE VS add_products(VS a, VS b) { return {a.sum + b.sum}; }
RADIXMILL_INLINE VI together(VS a) { return a.sum; }
RADIXMILL_INLINE VS products(VB codes, const int8_t* x) {
  VI sum{};
  for (int r = 0; r < kLanes; r++)
    sum[r] = codes[4 * r] * x[0] + codes[4 * r + 1] * x[1] + codes[4 * r + 2] * x[2] + codes[4 * r + 3] * x[3];
  return {sum};
}
RADIXMILL_INLINE VS signed_products(VB codes, const int8_t* x) {
  VI sum{};
  for (int r = 0; r < kLanes; r++) {
    const int8_t w[4] = {int8_t(codes[4 * r]), int8_t(codes[4 * r + 1]), int8_t(codes[4 * r + 2]), int8_t(codes[4 * r + 3])};
    sum[r] = w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
  }
  return {sum};
}

struct Pairs {
  VI first, second;
};
RADIXMILL_INLINE Pairs factor_pairs(const uint8_t* p) {
  Pairs pairs;
  for (int r = 0; r < kLanes; r++) pairs.first[r] = int8_t(p[2 * r]), pairs.second[r] = int8_t(p[2 * r + 1]);
  return pairs;
}
template <int h>
RADIXMILL_INLINE VI together(VS a, const Pairs& factors) {
  return a.sum * (h ? factors.second : factors.first);
}
RADIXMILL_INLINE VI times_halves(const Pairs& factors, const int16_t* halves) {
  return factors.first * int32_t(halves[0]) + factors.second * int32_t(halves[1]);
}
RADIXMILL_INLINE VI mul_int(VI a, int by) { return a * by; }

}  // namespace
}  // namespace radixmill
