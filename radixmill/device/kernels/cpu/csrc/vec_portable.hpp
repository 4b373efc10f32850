// Eight floats as a GCC/Clang vector: whatever the compiler's baseline makes of them. No fused multiply-add.
#pragma once
#include "half.hpp"
#include "kernels.hpp"

namespace radixmill {
namespace {

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

RADIXMILL_INLINE V load_half(const uint16_t* p) {
  V v;
  for (int i = 0; i < kLanes; i++) v[i] = half_to_float(p[i]);
  return v;
}
RADIXMILL_INLINE V load_bf16(const uint16_t* p) {
  V v;
  for (int i = 0; i < kLanes; i++) v[i] = bf16_to_float(p[i]);
  return v;
}
RADIXMILL_INLINE void store_half(uint16_t* p, V v) {
  for (int i = 0; i < kLanes; i++) p[i] = float_to_half(v[i]);
}

template <int shift>
RADIXMILL_INLINE V nibbles(const uint8_t* chunk) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = float((chunk[4 * r + shift / 8] >> (shift % 8)) & 15);
  return v;
}
template <int byte>
RADIXMILL_INLINE V signed_bytes(const uint8_t* chunk) {
  V v;
  for (int r = 0; r < kLanes; r++) v[r] = float(int8_t(chunk[4 * r + byte]));
  return v;
}

RADIXMILL_INLINE void store_int8(int8_t* p, VI v) {
  for (int i = 0; i < kLanes; i++) p[i] = int8_t(v[i]);
}

template <int TB>
RADIXMILL_INLINE void dot_w4(const uint8_t* q, const int8_t* x, size_t ldx, VI* out) {
  for (int t = 0; t < TB; t++) {
    int32_t sum[kLanes] = {};
    for (int j = 0; j < 4; j++)
      for (int r = 0; r < kLanes; r++)
        for (int b = 0; b < 4; b++) {
          const int code = q[32 * j + 4 * r + b];
          sum[r] += (code & 15) * x[t * ldx + 4 * j + b] + (code >> 4) * x[t * ldx + 16 + 4 * j + b];
        }
    memcpy(&out[t], sum, 32);
  }
}
template <int TB>
RADIXMILL_INLINE void dot_w8(const uint8_t* q, const int8_t* x, size_t ldx, VI* out) {
  for (int t = 0; t < TB; t++) {
    int32_t sum[kLanes] = {};
    for (int j = 0; j < 8; j++)
      for (int r = 0; r < kLanes; r++)
        for (int b = 0; b < 4; b++) sum[r] += int8_t(q[32 * j + 4 * r + b]) * x[t * ldx + 4 * j + b];
    memcpy(&out[t], sum, 32);
  }
}

}  // namespace
}  // namespace radixmill
