// float16, bfloat16 and float8 in integer arithmetic. Internal linkage: compiled into units with different instruction sets.
#pragma once
#include <cstdint>
#include <cstring>

namespace radixmill {
namespace {

inline float bits_to_float(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

inline uint32_t float_to_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = uint32_t(h & 0x7fff) << 13;
  if (rest >= (0x7c00u << 13)) return bits_to_float(sign | rest | 0x7f800000u);  // infinity, NaN
  return bits_to_float(float_to_bits(bits_to_float(rest) * 0x1p112f) | sign);    // normal and subnormal
}

// E4M3FN (OCP 8-bit Floating Point Specification, 2023): no infinities, all ones is NaN.
inline float f8_to_float(uint8_t code) {
  const uint16_t size = code & 0x7f;
  if (size == 0x7f) return bits_to_float(0x7fc00000u);
  return half_to_float(uint16_t((code & 0x80) << 8 | size << 7)) * 256;  // float16's exponent is 8 less
}

inline float bf16_to_float(uint16_t h) { return bits_to_float(uint32_t(h) << 16); }

// Rounds half to even; overflow becomes infinity.
inline uint16_t float_to_half(float f) {
  const uint32_t u = float_to_bits(f), sign = (u >> 16) & 0x8000, mag = u & 0x7fffffffu;
  if (mag > 0x7f800000u) return uint16_t(sign | 0x7e00 | ((mag >> 13) & 0x3ff));
  if (mag >= 0x47800000u) return uint16_t(sign | 0x7c00);  // ≥ 65536
  if (mag < 0x38800000u) {                                 // below 2⁻¹⁴: a multiple of 2⁻²⁴, rounded by the addition
    const uint32_t rounded = float_to_bits(bits_to_float(mag) + 0.5f);
    return uint16_t(sign | (rounded - 0x3f000000u));
  }
  const uint32_t odd = (mag >> 13) & 1;
  return uint16_t(sign | ((mag - 0x38000000u + 0xfff + odd) >> 13));
}

}  // namespace
}  // namespace radixmill
