// Attention over latents in integers, for `fast` mode: the products of pairs of int16 take half the time of floats.
//
// Of each key what is also its value becomes codes with one scale: of float16 13 bits and a sign, the scale a power of two so
// that numbers near the largest keep every bit; of int8 what is stored. That part of each query has codes of up to 13 bits
// too, and so have the weights of each run of keys. What is only key (the rotated dimensions, whose size is not the latent's)
// is multiplied as floats. Integer sums are exact: only what is rounded to codes differs from floats, and of a query nothing
// depends on its company.
//
// Include after elementwise.hpp, rows.hpp and load_stored().
#pragma once
#include <type_traits>

namespace radixmill {
namespace {

constexpr int kRun = 32;              // keys whose weights have one scale, and are summed up as integers
constexpr int kLatentPeak = 1 << 13;  // the largest code of a latent; of a weight one less: kRun · both < 2³¹
constexpr int kRunColumns = 64;       // of latents as values, 4 KiB a run
constexpr int kTwo = 2 * kLanes;      // codes in a vector
constexpr float kRounding = 12582912;  // 1.5 · 2²³: added to a float, its last bits are the nearest integer's

// Queries' codes are as large as sums over `width` of them may be.
constexpr int query_peak(int width) {
  const int most = 0x7fffffff / kLatentPeak / (width / kLanes);
  return most < kLatentPeak ? most : kLatentPeak - 1;
}
// Otherwise they would have less than 11 bits.
constexpr bool worth_codes(int rank) { return query_peak(pad(rank, kTwo)) >= 2047; }

// Numbers in one vector of pairs: lane i has those of columns i and kLanes + i.
template <class B>
void to_codes(const B* from, int n, V factor, V rounding, int16_t* to) {
  const auto two = [&](const B* p) {
    return lower_halves(bits_of(fma(load_stored(p), factor, rounding)),
                        bits_of(fma(load_stored(p + kLanes), factor, rounding)));
  };
  int i = 0;
  for (; i + kTwo <= n; i += kTwo) store_codes(to + i, two(from + i));
  if (i == n) return;
  B rest[kTwo] = {};
  __builtin_memcpy(rest, from + i, size_t(n - i) * sizeof(B));
  store_codes(to + i, two(rest));
}

// n numbers times `factor`, and zeros up to a whole vector.
template <class B>
void to_floats(const B* from, int n, V factor, float* to) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, mul(load_stored(from + i), factor));
  if (i == n) return;
  B rest[kLanes] = {};
  __builtin_memcpy(rest, from + i, size_t(n - i) * sizeof(B));
  store(to + i, mul(load_stored(rest), factor));
}

// 2ˢ such that n float16 are at most kLatentPeak · 2ˢ; NaN if one of them is not finite.
float scale_of(const uint16_t* from, int n) {
  const int whole = n & -kTwo;
  int most = largest_half(from, whole);
  if (whole < n) {
    uint16_t rest[kTwo] = {};
    __builtin_memcpy(rest, from + whole, size_t(n - whole) * 2);
    const int last = largest_half(rest, kTwo);
    most = last > most ? last : most;
  }
  const int exponent = most >> 10;
  if (exponent == 31) return __builtin_nanf("");
  const uint32_t bits = uint32_t(127 - 27 + (exponent ? exponent : 1)) << 23;  // they are below 2^(exponent − 14)
  float scale;
  __builtin_memcpy(&scale, &bits, 4);
  return scale;
}

// The codes of a block at work, over the pages that it visits.
class LatentCodes {
 public:
  LatentCodes(int rows, int page, int rank, int tail)
      : rows_(rows), keys_(pad(page, kRun)), rank_(rank), tail_(tail), width_(pad(rank, kTwo)),
        floats_(pad(tail, kLanes)) {}

  size_t floats() const {
    const size_t codes = size_t(rows_ + keys_) * width_ + size_t(rows_) * keys_;
    return codes / 2 + size_t(rows_) * (floats_ + keys_ / kRun + 1) + pad((rows_ + kLanes) * kKeyStrip, kMostLanes) +
           size_t(keys_) * (floats_ + 1) + kRun / 2 * kRunColumns + 10 * kMostLanes;
  }

  void use(float* memory) {
    const auto take = [&memory](size_t floats) {
      float* mine = memory;
      memory += (floats + kMostLanes - 1) & -size_t(kMostLanes);
      return mine;
    };
    queries_ = (int16_t*)take(size_t(rows_) * width_ / 2);
    codes_ = (int16_t*)take(size_t(keys_) * width_ / 2);
    weights_ = (int16_t*)take(size_t(rows_) * keys_ / 2);
    pairs_ = (int32_t*)take(kRun / 2 * kRunColumns);
    tails_ = take(size_t(rows_) * floats_);
    query_scales_ = take(size_t(rows_ + kLanes) * kKeyStrip);
    key_tails_ = take(size_t(keys_) * floats_);
    scales_ = take(size_t(keys_));
    steps_ = take(size_t(rows_) * (keys_ / kRun));
    fadings_ = take(size_t(rows_));
  }

  const float* scales() const { return scales_; }  // of the page's keys
  float* fading(int row) { return fadings_ + row; }  // what becomes of the row's sums before the page's values are added

  // One query of rank + tail floats.
  void take_query(int row, const float* q) {
    const int most = query_peak(width_);
    V peak = zero();
    bool nan = false;
    for (int i = 0; i < rank_; i += kLanes) {
      const V v = load_some(q + i, rank_ - i);
      peak = max(peak, abs(v));
      nan |= any_nan(v);
    }
    const float largest = max_lanes(peak);
    // A query that is smaller adds less to a score than counts; what is rotated is divided by both scales, and must stay
    // finite.
    const bool none = !(largest > 1e-14f);
    const float scale = nan || largest > __FLT_MAX__ ? __builtin_nanf("") : none ? 1 : largest / float(most);
    to_codes(q, rank_, none ? zero() : set1(float(most) / largest), set1(kRounding), queries_ + size_t(row) * width_);
    to_floats(q + rank_, tail_, set1(1 / scale), tails_ + size_t(row) * floats_);
    for (int i = 0; i < kKeyStrip; i++) query_scales_[row * kKeyStrip + i] = scale;
  }

  // Keys [from, to) of a page, `pitch` numbers apart.
  template <class B>
  void take_keys(const B* keys, int pitch, const float* stored_scales, int from, int to) {
    for (int key = from; key < to; key++) {
      const B* row = keys + size_t(key) * pitch;
      const float scale = sizeof(B) == 1 ? 1 : scale_of((const uint16_t*)row, rank_);
      scales_[key] = sizeof(B) == 1 ? stored_scales[key] : scale;
      to_codes(row, rank_, set1(1), set1(kRounding * scale), codes_ + size_t(key) * width_);
      to_floats(row + rank_, tail_, set1(1 / scale), key_tails_ + size_t(key) * floats_);
    }
  }

  // Rows [first, first + rows) against keys [key, key + kKeyStrip), of which those before `end` are taken: out[row][key].
  // The `bytes` at `next`, which will be needed next, are asked for on the way.
  void score(int first, int rows, int key, int end, const char* next, size_t bytes, float* out, size_t ldo) const {
    const int lines = int(bytes) / 64 * kQueryStrip / rows + 1;
    const char* last = next + bytes;
    float scales[kLanes];  // of a strip's scores
    for (int i = 0; i < kLanes; i++) scales[i] = scales_[key + i % kKeyStrip < end ? key + i % kKeyStrip : end - 1];
    for (int row = 0; row < rows; row += kQueryStrip) {
      for (int i = 0; i < lines && next < last; i++, next += 64) __builtin_prefetch(next, 0, 2);
      score_strip(key, end, load(scales), first + row, rows - row, out + size_t(row) * ldo + key, ldo);
    }
  }

  // Weights of keys [low, high) of the page for one row; the others' of the runs that [from, to) touches are 0.
  void take_weights(int row, const float* weights, int low, int high, int from, int to) {
    const V lane = load(kLaneNumbers);
    for (int run = from / kRun; run * kRun < to; run++) {
      V x[kRun / kLanes], peak = zero();
      for (int i = 0; i < kRun / kLanes; i++) {
        const int c = run * kRun + i * kLanes;
        x[i] = zero();
        if (c + kLanes <= low || c >= high) continue;
        x[i] = load(weights + c);
        if (low > c) x[i] = where_less(lane, set1(float(low - c)), zero(), x[i]);
        if (high < c + kLanes) x[i] = where_less(lane, set1(float(high - c)), x[i], zero());
        peak = max(peak, x[i]);
      }
      const float most = max_lanes(peak);
      const V factor = set1(most > kNothing ? float(kLatentPeak - 1) / most : 0);
      int16_t* codes = weights_ + size_t(row) * keys_ + run * kRun;
      for (int i = 0; i < kRun / kLanes; i++) store_int16(codes + i * kLanes, to_int(mul(x[i], factor)));
      steps_[row * (keys_ / kRun) + run] = most * (1.0f / float(kLatentPeak - 1));
    }
  }

  // out[row] = out[row] · its fading + Σ weight · value over the runs that [from, to) touches. Some columns of all rows stay
  // near.
  void add_values(int first, int rows, int from, int to, float* out, int stride) {
    const int last = first + rows, begin = from / kRun;
    for (int c = 0; c < stride; c += kRunColumns) {
      const int columns = stride - c < kRunColumns ? stride - c : kRunColumns;
      for (int run = begin; run * kRun < to; run++) {
        const int pairs = ((to - run * kRun < kRun ? to - run * kRun : kRun) + 1) / 2;
        take_pairs(run, pairs, c);
        const auto add = [&](auto some, int row) {
          float* y = out + size_t(row) * stride + c;
          if (run == begin)
            add_columns<some.value, true>(row, run, pairs, y, stride, columns);
          else
            add_columns<some.value, false>(row, run, pairs, y, stride, columns);
        };
        int row = first;
        for (; row + 6 <= last; row += 6) add(std::integral_constant<int, 6>(), row);
        for (; row + 4 <= last; row += 4) add(std::integral_constant<int, 4>(), row);
        for (; row + 2 <= last; row += 2) add(std::integral_constant<int, 2>(), row);
        for (; row < last; row++) add(std::integral_constant<int, 1>(), row);
      }
    }
  }

 private:
  void score_strip(int first, int end, V scales, int row, int rows, float* out, size_t ldo) const {
    const int real = rows < kQueryStrip ? rows : kQueryStrip;  // the others are the first once more
    const int16_t *query[kQueryStrip], *key[kKeyStrip];
    const float *tail[kQueryStrip], *key_tail[kKeyStrip];
    for (int q = 0; q < kQueryStrip; q++) {
      const size_t at = size_t(row + (q < real ? q : 0));
      query[q] = queries_ + at * width_, tail[q] = tails_ + at * floats_;
    }
    for (int i = 0; i < kKeyStrip; i++) {
      const size_t at = size_t(first + i < end ? first + i : end - 1);
      key[i] = codes_ + at * width_, key_tail[i] = key_tails_ + at * floats_;
    }
    VI dots[kLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) dots[i] = set1_int(0);
    for (int d = 0; d < width_; d += kTwo) {
      VI keys[kKeyStrip];
      for (int i = 0; i < kKeyStrip; i++) keys[i] = load_codes(key[i] + d);
      for (int q = 0; q < kQueryStrip; q++) {
        const VI x = load_codes(query[q] + d);
        for (int i = 0; i < kKeyStrip; i++) dots[q * kKeyStrip + i] = dot_pairs(dots[q * kKeyStrip + i], x, keys[i]);
      }
    }
    V sum[kLanes];
    for (int i = 0; i < kLanes; i++) sum[i] = to_float(dots[i]);
    for (int d = 0; d < floats_; d += kLanes) {
      V keys[kKeyStrip];
      for (int i = 0; i < kKeyStrip; i++) keys[i] = load(key_tail[i] + d);
      for (int q = 0; q < kQueryStrip; q++) {
        const V x = load(tail[q] + d);
        for (int i = 0; i < kKeyStrip; i++) sum[q * kKeyStrip + i] = fma(x, keys[i], sum[q * kKeyStrip + i]);
      }
    }
    float scores[kLanes];
    store(scores, mul(mul(sum_each(sum), scales), load(query_scales_ + row * kKeyStrip)));
    for (int q = 0; q < real; q++) __builtin_memcpy(out + q * ldo, scores + q * kKeyStrip, kKeyStrip * 4);
  }

  // Columns from c on of a run's values, key by key two in one.
  void take_pairs(int run, int pairs, int c) {
    const int columns = width_ - c < kRunColumns ? width_ - c : kRunColumns;
    for (int p = 0; p < pairs; p++) {
      const int16_t *even = codes_ + size_t(run * kRun + 2 * p) * width_ + c, *odd = even + width_;
      int32_t* to = pairs_ + p * kRunColumns;
      for (int i = 0; i < columns; i += kTwo) {
        const VI x = load_codes(even + i), y = load_codes(odd + i);
        store_codes((int16_t*)(to + i), lower_halves(x, y));
        store_codes((int16_t*)(to + i + kLanes), upper_halves(x, y));
      }
    }
  }

  template <int NQ, int NV, bool fade>
  RADIXMILL_INLINE void add_run(const int16_t* weights, const int32_t* pairs, int count, const float* steps,
                                const float* fadings, float* out, int stride) const {
    VI sum[NQ][NV];
    for (int q = 0; q < NQ; q++)
      for (int v = 0; v < NV; v++) sum[q][v] = set1_int(0);
    for (int p = 0; p < count; p++) {
      VI row[NV];
      for (int v = 0; v < NV; v++) row[v] = load_codes((const int16_t*)(pairs + p * kRunColumns + v * kLanes));
      for (int q = 0; q < NQ; q++) {
        const VI weight = same_pair(weights + q * keys_ + 2 * p);
        for (int v = 0; v < NV; v++) sum[q][v] = dot_pairs(sum[q][v], weight, row[v]);
      }
    }
    for (int q = 0; q < NQ; q++) {
      const V step = set1(steps[q * (keys_ / kRun)]), faded = set1(fade ? fadings[q] : 1);
      for (int v = 0; v < NV; v++) {
        float* y = out + size_t(q) * stride + v * kLanes;
        store(y, fma(to_float(sum[q][v]), step, fade ? mul(load(y), faded) : load(y)));
      }
    }
  }

  template <int NQ, bool fade>
  void add_columns(int row, int run, int pairs, float* out, int stride, int columns) const {
    constexpr int most = kRegisters > 16 ? 4 : 2;  // six rows of sums, the values and one more fit into the registers
    const int16_t* weights = weights_ + size_t(row) * keys_ + run * kRun;
    const float *steps = steps_ + row * (keys_ / kRun) + run, *fadings = fadings_ + row;
    int c = 0;
    for (; c + most * kLanes <= columns; c += most * kLanes)
      add_run<NQ, most, fade>(weights, pairs_ + c, pairs, steps, fadings, out + c, stride);
    for (; c < columns; c += kLanes) add_run<NQ, 1, fade>(weights, pairs_ + c, pairs, steps, fadings, out + c, stride);
  }

  static constexpr float kNothing = 1e-30f;

  int rows_, keys_, rank_, tail_, width_, floats_;
  int16_t* queries_;     // [rows, width]
  int16_t* codes_;       // [keys, width], of the page
  int16_t* weights_;     // [rows, keys]
  int32_t* pairs_;       // [kRun / 2, kRunColumns], each of two keys
  float* tails_;         // [rows, padded tail], over the query's scale
  float* query_scales_;  // [rows, kKeyStrip], a row's all the same
  float* key_tails_;     // [keys, padded tail], over the key's scale
  float* scales_;        // [keys]
  float* steps_;         // [rows, keys / kRun]: what 1 in the code of a run's weight is worth
  float* fadings_;       // [rows]
};

}  // namespace
}  // namespace radixmill
