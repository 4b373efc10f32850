// Eight floats on AVX2 + FMA + F16C, and the int8 dot products over a group of 32.
#pragma once
#include <immintrin.h>

#include "kernels.hpp"

namespace radixmill {
namespace {

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

RADIXMILL_INLINE V load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
RADIXMILL_INLINE V load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
RADIXMILL_INLINE void store_half(uint16_t* p, V v) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// Eight codes, one per row, from a chunk of [8 rows][4 bytes].
template <int shift>
RADIXMILL_INLINE V nibbles(const uint8_t* chunk) {
  const VI w = _mm256_srli_epi32(_mm256_loadu_si256((const __m256i*)chunk), shift);
  return _mm256_cvtepi32_ps(_mm256_and_si256(w, _mm256_set1_epi32(15)));
}
template <int byte>
RADIXMILL_INLINE V signed_bytes(const uint8_t* chunk) {
  const VI w = _mm256_slli_epi32(_mm256_loadu_si256((const __m256i*)chunk), 24 - 8 * byte);
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(w, 24));
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

// Dot products of one group: 8 rows of 4-bit codes with each of TB rows of int8, as int32.
// Sums stay in int16 until the end: 16 pairs of at most 15 · 127 · 2 make 30,480 per lane.
template <int TB>
RADIXMILL_INLINE void dot_w4(const uint8_t* q, const int8_t* x, size_t ldx, VI* out) {
  const VI low = _mm256_set1_epi8(15);
  VI sum[TB];
  for (int j = 0; j < 4; j++) {
    const VI w = _mm256_loadu_si256((const __m256i*)(q + 32 * j));
    const VI a = _mm256_and_si256(w, low), b = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
    for (int t = 0; t < TB; t++) {
      const int8_t* xt = x + t * ldx + 4 * j;
      const VI s =
          _mm256_add_epi16(_mm256_maddubs_epi16(a, broadcast4(xt)), _mm256_maddubs_epi16(b, broadcast4(xt + 16)));
      sum[t] = j ? _mm256_add_epi16(sum[t], s) : s;
    }
  }
  for (int t = 0; t < TB; t++) out[t] = _mm256_madd_epi16(sum[t], _mm256_set1_epi16(1));
}

// The same with 8-bit codes: |w| · (x with w's sign). A pair makes at most 128 · 127 · 2 = 32,512, so int16 holds it.
template <int TB>
RADIXMILL_INLINE void dot_w8(const uint8_t* q, const int8_t* x, size_t ldx, VI* out) {
  for (int t = 0; t < TB; t++) out[t] = _mm256_setzero_si256();
  for (int j = 0; j < 8; j++) {
    const VI w = _mm256_loadu_si256((const __m256i*)(q + 32 * j));
    const VI size = _mm256_abs_epi8(w);
    for (int t = 0; t < TB; t++) {
      const VI s = _mm256_maddubs_epi16(size, _mm256_sign_epi8(broadcast4(x + t * ldx + 4 * j), w));
      out[t] = _mm256_add_epi32(out[t], _mm256_madd_epi16(s, _mm256_set1_epi16(1)));
    }
  }
}

}  // namespace
}  // namespace radixmill
