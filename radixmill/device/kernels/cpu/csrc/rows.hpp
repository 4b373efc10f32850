// Scores of queries against keys that lie row by row, as latents do. Include after a vec_*.hpp.
#pragma once

namespace radixmill {
namespace {

// Lane i of the result is the sum of v[i], the halves of what is left added until one is. Overwrites v.
template <int half = kLanes / 2>
RADIXMILL_INLINE V sum_each(V* v) {
#pragma GCC unroll 8
  for (int i = 0; i < half; i++) v[i] = add_halves<half>(v[i], v[i + half]);
  if constexpr (half > 1) return sum_each<half / 2>(v);
  return v[0];
}

constexpr float kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

constexpr int kKeyStrip = 4;                     // keys that are scored at once
constexpr int kQueryStrip = kLanes / kKeyStrip;  // … against so many queries: a vector of scores

// out[q][i] = Σ a[q] · key[i], n a whole number of vectors: each lane sums its own, ascending, then the lanes are added.
void score_strip(int rows, const float* a, size_t lda, const float* const (&key)[kKeyStrip], int n, float* out,
                 size_t ldo) {
  for (; rows > 0; rows -= kQueryStrip, a += kQueryStrip * lda, out += kQueryStrip * ldo) {
    const int real = rows < kQueryStrip ? rows : kQueryStrip;  // the others are the first once more
    const float* query[kQueryStrip];
    for (int q = 0; q < kQueryStrip; q++) query[q] = a + (q < real ? q : 0) * lda;
    V sum[kLanes];
    for (int i = 0; i < kLanes; i++) sum[i] = zero();
    for (int d = 0; d < n; d += kLanes) {
      V keys[kKeyStrip];
      for (int i = 0; i < kKeyStrip; i++) keys[i] = load(key[i] + d);
      for (int q = 0; q < kQueryStrip; q++) {
        const V x = load(query[q] + d);
        for (int i = 0; i < kKeyStrip; i++) sum[q * kKeyStrip + i] = fma(x, keys[i], sum[q * kKeyStrip + i]);
      }
    }
    float scores[kLanes];
    store(scores, sum_each(sum));
    for (int q = 0; q < real; q++) __builtin_memcpy(out + q * ldo, scores + q * kKeyStrip, kKeyStrip * 4);
  }
}

}  // namespace
}  // namespace radixmill
