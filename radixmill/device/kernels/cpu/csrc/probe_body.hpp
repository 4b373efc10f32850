// The loops of probe.hpp, written once; include it in a unit compiled for an instruction set. A new one brings its vector
// of floats and its product of int8 codes here, two lines in a unit of its own, and one in probe_for (bind_rows.cpp).
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "probe.hpp"

namespace radixmill {
namespace {

#if defined(__AVX512VNNI__)
using Floats = __m512;
using Codes = __m512i;
inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Codes dot(Codes sum, Codes codes, Codes x) { return _mm512_dpbusd_epi32(sum, codes, x); }
#elif defined(__AVX2__)
using Floats = __m256;
using Codes = __m256i;
inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Codes dot(Codes sum, Codes codes, Codes x) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, x), _mm256_set1_epi16(1)));
}
#else
using Floats = float __attribute__((vector_size(16)));
using Codes = int16_t __attribute__((vector_size(16)));  // eight, widened
inline Floats all(float x) { return Floats{} + x; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
inline Codes dot(Codes sum, Codes codes, Codes x) { return sum + codes * x; }
#endif
#if defined(__AVX2__)
constexpr int kCodes = sizeof(Codes);
#else
constexpr int kCodes = sizeof(Codes) / 2;
#endif

uint64_t read_words(const uint64_t* words, size_t count) {
  uint64_t sums[32] = {};
  for (size_t i = 0; i + 32 <= count; i += 32)
    for (int l = 0; l < 32; l++) sums[l] += words[i + l];
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum += s;
  return sum;
}

float float_rounds(int rounds) {
  Floats sums[kChains];
  for (int i = 0; i < kChains; i++) sums[i] = all(float(i));
  const Floats half = all(0.5f), one = all(1.0f);
  for (int r = 0; r < rounds; r++)
    for (Floats& sum : sums) sum = multiply_add(sum, half, one);
  for (int i = 1; i < kChains; i++) sums[0] = sums[0] + sums[i];
  return sums[0][0];
}

// Unrolled throughout: an array that is indexed anywhere would be stored at every step.
int32_t int8_rounds(int rounds) {
  alignas(64) Codes x[kChains] = {}, sums[kChains] = {};
  const Codes codes = x[0] + 3;
  for (int r = 0; r < rounds; r++)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) {
      asm volatile("" : "+m"(x[i]));  // perhaps another now: the product is taken anew
      sums[i] = dot(sums[i], codes, x[i]);
    }
#pragma GCC unroll 12
  for (int i = 1; i < kChains; i++) sums[0] = sums[0] + sums[i];
  return int32_t(sums[0][0]);
}

constexpr ProbeLoops make_probe(const char* isa) {
  return {isa, read_words, float_rounds, int8_rounds, 2 * kChains * int(sizeof(Floats) / 4), 2 * kChains * kCodes};
}

}  // namespace
}  // namespace radixmill
