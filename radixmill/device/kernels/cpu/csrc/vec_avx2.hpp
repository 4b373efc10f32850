// Eight floats on AVX2 + FMA + F16C, perhaps with AVX-VNNI, and the integer products of eight rows of codes.
#pragma once
#include <immintrin.h>

#include "kernels.hpp"

namespace radixmill {
namespace {

constexpr int kLanes = 8, kRegisters = 16;
using V = __m256;
using VI = __m256i;
#define RADIXMILL_INLINE inline __attribute__((always_inline))

RADIXMILL_INLINE V zero() { return _mm256_setzero_ps(); }
RADIXMILL_INLINE V set1(float x) { return _mm256_set1_ps(x); }
RADIXMILL_INLINE V load(const float* p) { return _mm256_loadu_ps(p); }
RADIXMILL_INLINE void store(float* p, V x) { _mm256_storeu_ps(p, x); }
RADIXMILL_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
RADIXMILL_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
RADIXMILL_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
RADIXMILL_INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
RADIXMILL_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
// A NaN in the second operand comes through.
RADIXMILL_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
RADIXMILL_INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
RADIXMILL_INLINE V abs(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
RADIXMILL_INLINE V with_sign_of(V a, V s) { return _mm256_or_ps(a, _mm256_and_ps(_mm256_set1_ps(-0.0f), s)); }
RADIXMILL_INLINE V where_less(V a, V b, V yes, V no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
RADIXMILL_INLINE V round(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
RADIXMILL_INLINE bool any_nan(V a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }
RADIXMILL_INLINE VI to_int(V a) { return _mm256_cvtps_epi32(a); }
RADIXMILL_INLINE V to_float(VI a) { return _mm256_cvtepi32_ps(a); }
RADIXMILL_INLINE VI add_int(VI a, VI b) { return _mm256_add_epi32(a, b); }
RADIXMILL_INLINE VI sub_int(VI a, VI b) { return _mm256_sub_epi32(a, b); }
RADIXMILL_INLINE VI set1_int(int32_t x) { return _mm256_set1_epi32(x); }
RADIXMILL_INLINE VI half_int(VI a) { return _mm256_srai_epi32(a, 1); }
RADIXMILL_INLINE V power_of_two(VI n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

RADIXMILL_INLINE float sum_lanes(V v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
RADIXMILL_INLINE float max_lanes(V v) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
// Of every 2 · half lanes: the halves of a added, then those of b.
template <int half>
RADIXMILL_INLINE V add_halves(V a, V b) {
  if constexpr (half == 4) return add(_mm256_blend_ps(a, b, 0xF0), _mm256_permute2f128_ps(a, b, 0x21));
  if constexpr (half == 2) return add(_mm256_blend_ps(a, b, 0xCC), _mm256_shuffle_ps(a, b, 0x4E));
  return add(_mm256_blend_ps(a, b, 0xAA), _mm256_permute_ps(_mm256_blend_ps(a, b, 0x55), 0xB1));
}

RADIXMILL_INLINE V load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
// Values of neighbouring columns from a vector of pairs.
RADIXMILL_INLINE V first_of_pairs(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i*)p), 16));
}
RADIXMILL_INLINE V second_of_pairs(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i*)p), _mm256_set1_epi32(int(0xffff0000))));
}
RADIXMILL_INLINE V load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
RADIXMILL_INLINE void store_half(uint16_t* p, V v) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// ── codes: [8 rows][4 bytes], see formats.hpp ──

using VB = __m256i;

// Field `field` of a plane of `bits` bits, at bit `at` of each byte.
template <int bits, int field, int at>
RADIXMILL_INLINE VB plane(const uint8_t* p) {
  constexpr int fields = 8 / bits, shift = bits * (field % fields) - at;
  const VI w = _mm256_loadu_si256((const __m256i*)(p + 32 * (field / fields)));
  const VI moved = shift > 0 ? _mm256_srli_epi16(w, shift > 0 ? shift : 0) : _mm256_slli_epi16(w, shift < 0 ? -shift : 0);
  return _mm256_and_si256(moved, _mm256_set1_epi8(char(((1 << bits) - 1) << at)));
}
RADIXMILL_INLINE VB bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
RADIXMILL_INLINE void store_bytes(uint8_t* p, VB v) { _mm256_storeu_si256((__m256i*)p, v); }
RADIXMILL_INLINE VB lookup(const int8_t* table, VB codes) {
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table)), codes);
}
RADIXMILL_INLINE VB join(VB a, VB b) { return _mm256_or_si256(a, b); }

// Byte b of each row.
template <int b>
RADIXMILL_INLINE V unsigned_floats(VB codes) {
  const VI w = _mm256_srli_epi32(codes, 8 * b);
  return _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(255)));
}
template <int b>
RADIXMILL_INLINE V signed_floats(VB codes) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(codes, 24 - 8 * b), 24));
}
// Eight int8.
RADIXMILL_INLINE V int8_floats(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
// E4M3FN: as float16, whose exponent is 8 less, its two codes of all ones made NaN.
RADIXMILL_INLINE V f8_floats(const uint8_t* p) {
  const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)p)), 7);
  const __m128i ones = _mm_set1_epi16(0x3f80);
  const __m128i nan = _mm_cmpeq_epi16(_mm_and_si128(wide, ones), ones);
  const __m128i half = _mm_or_si128(_mm_and_si128(wide, _mm_set1_epi16(int16_t(0xbfff))), nan);
  return mul(_mm256_cvtph_ps(half), set1(256));
}
// Item h of eight pairs of int8.
template <int h>
RADIXMILL_INLINE V half_floats(const uint8_t* p) {
  const VI pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(pairs, 16 - 16 * h), 16));
}

RADIXMILL_INLINE VI broadcast4(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

// Eight int8 from eight floats that hold integers in [−127, 127].
RADIXMILL_INLINE void store_int8(int8_t* p, VI v) {
  const __m128i w = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(w, w));
}

// ── products of pairs of int16 ──

#define RADIXMILL_LATENT_CODES
RADIXMILL_INLINE VI load_codes(const int16_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
RADIXMILL_INLINE void store_codes(int16_t* p, VI v) { _mm256_storeu_si256((__m256i*)p, v); }
RADIXMILL_INLINE VI same_pair(const int16_t* p) { return broadcast4((const int8_t*)p); }
RADIXMILL_INLINE VI bits_of(V a) { return _mm256_castps_si256(a); }
// Of each lane the lower halves of both, and the upper ones.
RADIXMILL_INLINE VI lower_halves(VI a, VI b) { return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xAA); }
RADIXMILL_INLINE VI upper_halves(VI a, VI b) { return _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xAA); }
// acc + the sum of each lane's two products.
RADIXMILL_INLINE VI dot_pairs(VI acc, VI a, VI b) {
#ifdef __AVXVNNI__
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(acc) : "x"(a), "xm"(b));
  return acc;
#else
  return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
#endif
}
RADIXMILL_INLINE void store_int16(int16_t* p, VI v) {
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
// The largest of n float16 but for their signs, as bits; n is a whole number of two vectors.
RADIXMILL_INLINE int largest_half(const uint16_t* p, int n) {
  VI most = _mm256_setzero_si256();
  for (int i = 0; i < n; i += 2 * kLanes)
    most = _mm256_max_epu16(most, _mm256_and_si256(load_codes((const int16_t*)p + i), _mm256_set1_epi16(0x7fff)));
  const __m128i last = _mm_max_epu16(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  return 0xffff - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(last, _mm_set1_epi16(-1))), 0);
}

// ── products of codes with int8 activations ──

#ifdef __AVXVNNI__

// dot4 is unsigned by signed: signed codes go in with their top bit turned over.
constexpr int kSignedBias = 128;
RADIXMILL_INLINE VB biased(VB codes) { return _mm256_xor_si256(codes, _mm256_set1_epi8(char(0x80))); }
// acc + Σ of four unsigned codes of every row times x[0..3].
RADIXMILL_INLINE VI dot4(VI acc, VB codes, const int8_t* x) { return _mm256_dpbusd_avx_epi32(acc, codes, broadcast4(x)); }
// Times 0, or a power of two.
template <int by>
RADIXMILL_INLINE VI times_power(VI a) {
  return by ? _mm256_slli_epi32(a, by ? __builtin_ctz(by ? by : 1) : 0) : _mm256_setzero_si256();
}
RADIXMILL_INLINE VI mul_ints(VI a, VI b) { return _mm256_mullo_epi32(a, b); }

// Two factors per row.
struct Pairs {
  VI first, second;
};
RADIXMILL_INLINE Pairs factor_pairs(const uint8_t* p) {
  const VI pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
  return {_mm256_srai_epi32(_mm256_slli_epi32(pairs, 16), 16), _mm256_srai_epi32(pairs, 16)};
}
// first · halves[0] + second · halves[1], per row.
RADIXMILL_INLINE VI times_halves(const Pairs& factors, const int16_t* halves) {
  return add_int(mul_ints(factors.first, set1_int(halves[0])), mul_ints(factors.second, set1_int(halves[1])));
}

#else

// Two int16 per row: sums of pairs of products, to be added and then taken together.
using VS = __m256i;
RADIXMILL_INLINE VS add_products(VS a, VS b) { return _mm256_add_epi16(a, b); }
RADIXMILL_INLINE VI together(VS a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }

// Activations x[0..3] with unsigned codes of every row. A pair makes at most (2^bits − 1) · 127 · 2.
RADIXMILL_INLINE VS products(VB codes, const int8_t* x) { return _mm256_maddubs_epi16(codes, broadcast4(x)); }
// |w| · (x with w's sign): at most 128 · 127 · 2 = 32,512.
RADIXMILL_INLINE VS signed_products(VB codes, const int8_t* x) {
  return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(broadcast4(x), codes));
}

// Two factors per row, as int16 side by side.
struct Pairs {
  VI both, first, second;  // (a, b), (a, a), (b, b)
};
RADIXMILL_INLINE Pairs factor_pairs(const uint8_t* p) {
  const VI both = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
  return {both, _mm256_blend_epi16(both, _mm256_slli_epi32(both, 16), 0xAA),
          _mm256_blend_epi16(both, _mm256_srli_epi32(both, 16), 0x55)};
}
template <int h>
RADIXMILL_INLINE VI together(VS a, const Pairs& factors) {
  return _mm256_madd_epi16(a, h ? factors.second : factors.first);
}
// first · halves[0] + second · halves[1], per row.
RADIXMILL_INLINE VI times_halves(const Pairs& factors, const int16_t* halves) {
  return _mm256_madd_epi16(factors.both, broadcast4((const int8_t*)halves));
}
RADIXMILL_INLINE VI mul_int(VI a, int by) { return _mm256_mullo_epi32(a, _mm256_set1_epi32(by)); }

#endif

}  // namespace
}  // namespace radixmill
