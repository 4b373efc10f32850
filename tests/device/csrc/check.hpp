// What the checks of one instruction set share: random numbers that are the same everywhere, and a tally.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace radixmill {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return uint32_t((z ^ (z >> 31)) >> 32);
  }
  float uniform() { return (float(bits() >> 8) - 8388608.0f) * 0x1p-23f; }  // [−1, 1)
  Floats floats(size_t n, float size = 1) {
    Floats all(n);
    for (float& x : all) x = size * uniform();
    return all;
  }

 private:
  uint64_t state_;
};

// Counts what failed, and says the first few; and a digest of every result, by which two machines compare.
class Report {
 public:
  void expect(bool holds, const std::string& what) {
    checks_++;
    if (!holds && failures_++ < 20) std::printf("FAILED %s\n", what.c_str());
  }
  template <class T>
  void same(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
    expect(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0, what);
  }
  // Within `tolerance` of the largest value.
  void near(const Floats& got, const Doubles& want, double tolerance, const std::string& what) {
    double largest = 1e-30, error = 0;
    for (size_t i = 0; i < want.size(); i++) {
      largest = std::max(largest, std::fabs(want[i]));
      const double off = std::fabs(double(got[i]) - want[i]);
      error = off <= error ? error : off;  // a NaN sticks
    }
    expect(got.size() == want.size() && error <= tolerance * largest, what + ": off by " + std::to_string(error / largest));
  }
  void mix(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) digest_ = (digest_ ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  }
  // All NaN are one.
  void mix(const Floats& values) {
    for (float x : values) {
      if (std::isnan(x)) x = std::fabs(std::nanf(""));
      mix(&x, 4);
    }
  }

  int failures() const { return failures_; }
  int checks() const { return checks_; }
  uint64_t digest() const { return digest_; }

 private:
  int failures_ = 0, checks_ = 0;
  uint64_t digest_ = 0xcbf29ce484222325u;
};

// Rows as int8, with room for everything the kernels want to know of them.
struct Int8Rows {
  Int8Rows(int t, int k)
      : codes(size_t(t) * k), scales(size_t(t) * k / kGroup), sums(scales.size()), minus(scales.size()),
        halves(2 * scales.size()) {}
  Codes view() { return {codes.data(), scales.data(), sums.data(), minus.data(), halves.data()}; }

  std::vector<int8_t> codes;
  Floats scales, sums;
  std::vector<int32_t> minus;
  std::vector<int16_t> halves;
};

void check_linear(const Kernels& kernels, Report& report);
void check_rows(const Kernels& kernels, Report& report);
void check_attention(const Kernels& kernels, Report& report);

}  // namespace radixmill
