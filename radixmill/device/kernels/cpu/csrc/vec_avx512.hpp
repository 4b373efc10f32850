// Sixteen floats on AVX-512 (F, BW, VL, DQ) with VNNI, and the integer products of sixteen rows of codes.
#pragma once
#include <immintrin.h>

#include "kernels.hpp"

namespace radixmill {
namespace {

constexpr int kLanes = 16, kRegisters = 32;
using V = __m512;
using VI = __m512i;
#define RADIXMILL_INLINE inline __attribute__((always_inline))

RADIXMILL_INLINE V zero() { return _mm512_setzero_ps(); }
RADIXMILL_INLINE V set1(float x) { return _mm512_set1_ps(x); }
RADIXMILL_INLINE V load(const float* p) { return _mm512_loadu_ps(p); }
RADIXMILL_INLINE void store(float* p, V x) { _mm512_storeu_ps(p, x); }
RADIXMILL_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
RADIXMILL_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
RADIXMILL_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
RADIXMILL_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
RADIXMILL_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
// A NaN in the second operand comes through.
RADIXMILL_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
RADIXMILL_INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
RADIXMILL_INLINE V abs(V a) { return _mm512_abs_ps(a); }
RADIXMILL_INLINE V with_sign_of(V a, V s) { return _mm512_or_ps(a, _mm512_and_ps(_mm512_set1_ps(-0.0f), s)); }
RADIXMILL_INLINE V where_less(V a, V b, V yes, V no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
RADIXMILL_INLINE V round(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RADIXMILL_INLINE bool any_nan(V a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
RADIXMILL_INLINE VI to_int(V a) { return _mm512_cvtps_epi32(a); }
RADIXMILL_INLINE V to_float(VI a) { return _mm512_cvtepi32_ps(a); }
RADIXMILL_INLINE VI add_int(VI a, VI b) { return _mm512_add_epi32(a, b); }
RADIXMILL_INLINE VI sub_int(VI a, VI b) { return _mm512_sub_epi32(a, b); }
RADIXMILL_INLINE VI set1_int(int32_t x) { return _mm512_set1_epi32(x); }
RADIXMILL_INLINE VI half_int(VI a) { return _mm512_srai_epi32(a, 1); }
RADIXMILL_INLINE V power_of_two(VI n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

RADIXMILL_INLINE float sum_lanes(V v) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
RADIXMILL_INLINE float max_lanes(V v) { return _mm512_reduce_max_ps(v); }
// Of every 2 · half lanes: the halves of a added, then those of b.
template <int half>
RADIXMILL_INLINE V add_halves(V a, V b) {
  if constexpr (half == 8) return add(_mm512_mask_blend_ps(0xFF00, a, b), _mm512_shuffle_f32x4(a, b, 0x4E));
  if constexpr (half == 4) {
    const V mixed = _mm512_mask_blend_ps(0x0F0F, a, b);
    return add(_mm512_mask_blend_ps(0xF0F0, a, b), _mm512_shuffle_f32x4(mixed, mixed, 0xB1));
  }
  if constexpr (half == 2) return add(_mm512_mask_blend_ps(0xCCCC, a, b), _mm512_shuffle_ps(a, b, 0x4E));
  return add(_mm512_mask_blend_ps(0xAAAA, a, b), _mm512_permute_ps(_mm512_mask_blend_ps(0x5555, a, b), 0xB1));
}

RADIXMILL_INLINE V load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
// Values of neighbouring columns from a vector of pairs.
RADIXMILL_INLINE V first_of_pairs(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
RADIXMILL_INLINE V second_of_pairs(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(int(0xffff0000))));
}
RADIXMILL_INLINE V load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
RADIXMILL_INLINE void store_half(uint16_t* p, V v) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// ── codes: [16 rows][4 bytes], see formats.hpp ──

using VB = __m512i;

RADIXMILL_INLINE VB bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
RADIXMILL_INLINE void store_bytes(uint8_t* p, VB v) { _mm512_storeu_si512(p, v); }
// Field `field` of a plane of `bits` bits, at bit `at` of each byte.
template <int bits, int field, int at>
RADIXMILL_INLINE VB plane(const uint8_t* p) {
  constexpr int fields = 8 / bits, shift = bits * (field % fields) - at;
  const VI w = bytes(p + 4 * kLanes * (field / fields));
  const VI moved = shift > 0 ? _mm512_srli_epi16(w, shift > 0 ? shift : 0) : _mm512_slli_epi16(w, shift < 0 ? -shift : 0);
  return _mm512_and_si512(moved, _mm512_set1_epi8(char(((1 << bits) - 1) << at)));
}
RADIXMILL_INLINE VB lookup(const int8_t* table, VB codes) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), codes);
}
RADIXMILL_INLINE VB join(VB a, VB b) { return _mm512_or_si512(a, b); }

// Byte b of each row.
template <int b>
RADIXMILL_INLINE V unsigned_floats(VB codes) {
  return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(codes, 8 * b), _mm512_set1_epi32(255)));
}
template <int b>
RADIXMILL_INLINE V signed_floats(VB codes) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 24 - 8 * b), 24));
}
// Sixteen int8.
RADIXMILL_INLINE V int8_floats(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
}
// E4M3FN: as float16, whose exponent is 8 less, its two codes of all ones made NaN.
RADIXMILL_INLINE V f8_floats(const uint8_t* p) {
  const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), 7);
  const __m256i ones = _mm256_set1_epi16(0x3f80);
  const __m256i nan = _mm256_cmpeq_epi16(_mm256_and_si256(wide, ones), ones);
  const __m256i half = _mm256_or_si256(_mm256_and_si256(wide, _mm256_set1_epi16(int16_t(0xbfff))), nan);
  return mul(_mm512_cvtph_ps(half), set1(256));
}
// Item h of sixteen pairs of int8.
template <int h>
RADIXMILL_INLINE VI half_ints(const uint8_t* p) {
  const VI pairs = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_srai_epi32(_mm512_slli_epi32(pairs, 16 - 16 * h), 16);
}
template <int h>
RADIXMILL_INLINE V half_floats(const uint8_t* p) {
  return _mm512_cvtepi32_ps(half_ints<h>(p));
}

// Sixteen int8 from sixteen floats that hold integers in [−127, 127].
RADIXMILL_INLINE void store_int8(int8_t* p, VI v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(v)); }

// ── products of pairs of int16 ──

#define RADIXMILL_LATENT_CODES
RADIXMILL_INLINE VI load_codes(const int16_t* p) { return _mm512_loadu_si512(p); }
RADIXMILL_INLINE void store_codes(int16_t* p, VI v) { _mm512_storeu_si512(p, v); }
RADIXMILL_INLINE VI same_pair(const int16_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
RADIXMILL_INLINE VI bits_of(V a) { return _mm512_castps_si512(a); }
// Of each lane the lower halves of both, and the upper ones.
RADIXMILL_INLINE VI lower_halves(VI a, VI b) { return _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16)); }
RADIXMILL_INLINE VI upper_halves(VI a, VI b) { return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(a, 16), b); }
// acc + the sum of each lane's two products.
// In assembly, since GCC keeps half of the sums in memory where the intrinsic is used.
RADIXMILL_INLINE VI dot_pairs(VI acc, VI a, VI b) {
  asm("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "vm"(b));
  return acc;
}
RADIXMILL_INLINE void store_int16(int16_t* p, VI v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(v)); }
// The largest of n float16 but for their signs, as bits; n is a whole number of two vectors.
RADIXMILL_INLINE int largest_half(const uint16_t* p, int n) {
  VI most = _mm512_setzero_si512();
  for (int i = 0; i < n; i += 2 * kLanes)
    most = _mm512_max_epu16(most, _mm512_and_si512(_mm512_loadu_si512(p + i), _mm512_set1_epi16(0x7fff)));
  const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1));
  const __m128i last = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  return 0xffff - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(last, _mm_set1_epi16(-1))), 0);
}

#ifdef __AVX512BF16__
// ── products of pairs of bf16 ──

// Rounds half to even; subnormals become zero, as the products below take them.
RADIXMILL_INLINE void store_bf16(uint16_t* p, V v) {
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh(v);
  _mm256_storeu_si256((__m256i*)p, halves);
}
// acc + row pairs · x[0..1], the second product first, each rounded.
RADIXMILL_INLINE V dot2(V acc, const uint16_t* pairs, const uint16_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(pairs), (__m512bh)_mm512_set1_epi32(word));
}
#endif

// ── products of codes with int8 activations ──

// dot4 is unsigned by signed: signed codes go in with their top bit turned over.
constexpr int kSignedBias = 128;
RADIXMILL_INLINE VB biased(VB codes) { return _mm512_xor_si512(codes, _mm512_set1_epi8(char(0x80))); }

// acc + Σ of four unsigned codes of every row times x[0..3].
RADIXMILL_INLINE VI dot4(VI acc, VB codes, const int8_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, 4);
  return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(word));
}
// Times 0, or a power of two.
template <int by>
RADIXMILL_INLINE VI times_power(VI a) {
  return by ? _mm512_slli_epi32(a, by ? __builtin_ctz(by ? by : 1) : 0) : _mm512_setzero_si512();
}
RADIXMILL_INLINE VI mul_ints(VI a, VI b) { return _mm512_mullo_epi32(a, b); }

// Two factors per row.
struct Pairs {
  VI first, second;
};
RADIXMILL_INLINE Pairs factor_pairs(const uint8_t* p) { return {half_ints<0>(p), half_ints<1>(p)}; }
// first · halves[0] + second · halves[1], per row.
RADIXMILL_INLINE VI times_halves(const Pairs& factors, const int16_t* halves) {
  return add_int(mul_ints(factors.first, set1_int(halves[0])), mul_ints(factors.second, set1_int(halves[1])));
}

}  // namespace
}  // namespace radixmill
