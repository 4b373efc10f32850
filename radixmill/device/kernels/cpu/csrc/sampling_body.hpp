// The loops of sampling.hpp, written once; include it in a unit compiled for an instruction set.
//
// Vectors are of the compiler's own kind, as wide as the unit's registers. Elementwise operations are rounded alike in
// all widths, and sums are of whole numbers, so the width never shows in a result.
#pragma once
#include <cstring>
#include <limits>

#include "sampling.hpp"

namespace radixmill {
namespace {

#if defined(__AVX512F__)
constexpr int kWide = 8;
#elif defined(__AVX2__)
constexpr int kWide = 4;
#else
constexpr int kWide = 2;
#endif
using D = double __attribute__((vector_size(8 * kWide)));
using I = int64_t __attribute__((vector_size(8 * kWide)));
using F = float __attribute__((vector_size(4 * kWide)));  // as many as a D
using W = float __attribute__((vector_size(8 * kWide)));  // a whole register
using W32 = int32_t __attribute__((vector_size(8 * kWide)));

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();
constexpr double kFloor = -708.0;                     // below, exp is taken as zero
constexpr double kRound = 6755399441055744.0;         // 1.5 · 2⁵²: adding it rounds to a whole number, half to even
constexpr int64_t kRoundBits = 0x4338000000000000;    // its bits; those of a whole number beside it differ by that number
constexpr double kUnits = double(int64_t(1) << kMassBits);

template <class T, class S>
inline T as(S from) {
  static_assert(sizeof(T) == sizeof(S));
  T to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// exp of x ≤ 0, in whole units of 2⁻⁴⁴.
inline I mass_of(D x, const ExpTable& table) {
  const auto under = x < kFloor;
  const D floored = under ? D{} + kFloor : x;
  const D rounded = floored * table.inverse + kRound;
  const I n = as<I>(rounded);
  const D r = floored - (rounded - kRound) * table.width;
  D step;
  for (int i = 0; i < kWide; i++) step[i] = table.steps[n[i] & 1023];
  // Times 2ᵉ: into the exponent field of a normal number.
  D scale = as<D>(as<I>(step) + ((n << 42) & I(I{} + ~((int64_t(1) << 52) - 1))));
  scale = under ? D{} : scale;
  D y = r * (1.0 / 6.0);
  y = (y + 0.5) * r;
  y = (y + 1.0) * r;
  y = (y + 1.0) * scale;
  return as<I>(y * kUnits + kRound) - kRoundBits;
}

// Maxima of one block; `odd` collects where a NaN stood.
inline void scan_block(const float* row, int count, float* lanes, W32& odd) {
  constexpr int width = 2 * kWide, parts = kMaxima / width;
  W best[parts];
  for (int p = 0; p < parts; p++) best[p] = W{} + kNothing;
  const auto take = [&](const float* from) {
    for (int p = 0; p < parts; p++) {
      W v;
      memcpy(&v, from + p * width, sizeof v);
      best[p] = v > best[p] ? v : best[p];
      odd |= v != v;
    }
  };
  int i = 0;
  for (; i + kMaxima <= count; i += kMaxima) take(row + i);
  if (i < count) {
    float rest[kMaxima];
    for (float& v : rest) v = kNothing;
    memcpy(rest, row + i, size_t(count - i) * sizeof(float));
    take(rest);
  }
  memcpy(lanes, best, sizeof best);
}

inline float highest(const float* lanes) {
  float best = kNothing;
  for (int l = 0; l < kMaxima; l++) best = lanes[l] > best ? lanes[l] : best;
  return best;
}

Scan scan_row(const float* row, int n, float* lanes) {
  Scan scan{kNothing, false};
  W32 odd{};
  for (int from = 0; from < n; from += kSumBlock, lanes += kMaxima) {
    scan_block(row + from, n - from < kSumBlock ? n - from : kSumBlock, lanes, odd);
    const float best = highest(lanes);
    scan.peak = best > scan.peak ? best : scan.peak;
  }
  for (int l = 0; l < 2 * kWide; l++) scan.dirty |= odd[l] != 0;
  scan.dirty |= scan.peak > kMost;
  return scan;
}

// NaN → −∞, +∞ → the largest float; −∞ where the mask has no bit.
void mask_block(const float* row, const uint32_t* mask, int count, float* out) {
  constexpr int width = 2 * kWide;
  W32 bit;
  for (int l = 0; l < width; l++) bit[l] = int32_t(1) << l;
  int i = 0;
  for (; i + width <= count; i += width) {
    W v;
    memcpy(&v, row + i, sizeof v);
    const auto kept = (((W32{} + int32_t(mask[i / 32] >> (i % 32))) & bit) != 0) & (v == v);
    v = v < kMost ? v : W{} + kMost;
    const W masked = kept ? v : W{} + kNothing;
    memcpy(out + i, &masked, sizeof masked);
  }
  for (; i < count; i++) {
    const bool kept = (mask[i / 32] >> (i % 32) & 1) && row[i] == row[i];
    out[i] = !kept ? kNothing : row[i] < kMost ? row[i] : kMost;
  }
}

float scan_masked_row(const float* row, const uint32_t* mask, int n, float* out, float* lanes) {
  float peak = kNothing, block[kSumBlock];
  W32 odd{};
  for (int from = 0; from < n; from += kSumBlock, lanes += kMaxima) {
    const int count = n - from < kSumBlock ? n - from : kSumBlock;
    float* to = out ? out + from : block;
    mask_block(row + from, mask + from / 32, count, to);
    scan_block(to, count, lanes, odd);
    const float best = highest(lanes);
    peak = best > peak ? best : peak;
  }
  return peak;
}

// Word w of a mask of n tokens, without the bits beyond them.
inline uint32_t word_of(const uint32_t* mask, int n, int w) {
  const int left = n - 32 * w;
  return left < 32 ? mask[w] & ((uint32_t(1) << left) - 1) : mask[w];
}

int count_allowed_bits(const uint32_t* mask, int n) {
  int count = 0;
  for (int w = 0; w < n / 32; w++) count += __builtin_popcount(mask[w]);
  return n % 32 ? count + __builtin_popcount(word_of(mask, n, n / 32)) : count;
}

void gather_allowed_row(const float* row, const uint32_t* mask, int n, int32_t* ids, float* logits) {
  for (int w = 0; 32 * w < n; w++)
    for (uint32_t word = word_of(mask, n, w); word; word &= word - 1) {
      *ids = 32 * w + __builtin_ctz(word);
      *logits++ = row[*ids++];
    }
}

int count_from_row(const float* row, int n, float least) {
  int count = 0;
  for (int i = 0; i < n; i++) count += row[i] >= least;
  return count;
}

int gather_from_row(const float* row, int n, float least, const float* lanes, int32_t* ids, float* logits) {
  int found = 0;
  for (int from = 0; from < n; from += kSumBlock, lanes += kMaxima) {
    if (highest(lanes) < least) continue;
    const int to = n - from < kSumBlock ? n : from + kSumBlock;
    for (int i = from; i < to; i++) {  // found ≤ i: there is room for one more
      ids[found] = i;
      logits[found] = row[i];
      found += row[i] >= least;
    }
  }
  return found;
}

inline D scaled(F logits, double peak, double temperature) {
  const D x = __builtin_convertvector(logits, D) - peak;
  return temperature == 1.0 ? x : x / temperature;
}

void masses_row(const float* logits, int n, double peak, double temperature, const ExpTable& table, int64_t* masses,
                int64_t* sums) {
  for (int from = 0; from < n; from += kSumBlock) {
    const int to = n - from < kSumBlock ? n : from + kSumBlock;
    I sum{};
    int i = from;
    for (; i + kWide <= to; i += kWide) {
      F v;
      memcpy(&v, logits + i, sizeof v);
      const I mass = mass_of(scaled(v, peak, temperature), table);
      memcpy(masses + i, &mass, sizeof mass);
      sum += mass;
    }
    if (i < to) {
      F v = F{} + kNothing;
      memcpy(&v, logits + i, size_t(to - i) * sizeof(float));
      const I mass = mass_of(scaled(v, peak, temperature), table);
      memcpy(masses + i, &mass, size_t(to - i) * sizeof(int64_t));
      sum += mass;
    }
    int64_t all = 0;
    for (int l = 0; l < kWide; l++) all += sum[l];
    *sums++ = all;
  }
}

void keep_tokens(const Tokens& tokens, Edge edge, int64_t least, int64_t* masses, int64_t* sums) {
  for (int from = 0; from < tokens.count; from += kSumBlock) {
    const int to = tokens.count - from < kSumBlock ? tokens.count : from + kSumBlock;
    int64_t sum = 0;
    for (int i = from; i < to; i++) {
      const int32_t id = tokens.ids ? tokens.ids[i] : i;
      const float v = tokens.logits[i];
      const bool kept = ((v > edge.logit) | ((v == edge.logit) & (id <= edge.id))) & (masses[i] >= least);
      masses[i] = kept ? masses[i] : 0;
      sum += masses[i];
    }
    *sums++ = sum;
  }
}

void buckets_row(const float* logits, int n, float peak, float scale, int last, int32_t* buckets) {
  const float most = float(last);
  for (int i = 0; i < n; i++) {
    const float at = (peak - logits[i]) * scale;
    buckets[i] = int32_t(at < most ? at : most);
  }
}

constexpr RowKernels make_rows(const char* isa) {
  return {isa,        scan_row,   scan_masked_row, count_allowed_bits, gather_allowed_row, count_from_row, gather_from_row,
          masses_row, keep_tokens, buckets_row};
}

}  // namespace
}  // namespace radixmill
