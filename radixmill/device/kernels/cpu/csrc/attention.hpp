// Attention of one block of queries over the pages of its row. Include after linear.hpp and math.hpp.
//
// Per query: online softmax, page by page in the order of positions (Milakov and Gimelshein 2018). Per page: scores of
// a vector of keys at a time, summed over D ascending; one rescaling; then weight · value, one multiply-add per visible key in
// order. Queries that share a block only share loads: each goes through exactly the operations it would go through
// alone.
#pragma once

namespace radixmill {
namespace {

RADIXMILL_INLINE V load_stored(const float* p) { return load(p); }
RADIXMILL_INLINE V load_stored(const uint16_t* p) { return load_half(p); }

// out[q][n] += Σ_k a[q][k] · b[k][n] for NQ rows and NV vectors of columns.
template <int NQ, int NV, class B>
RADIXMILL_INLINE void accumulate(const float* a, size_t lda, const B* b, size_t ldb, int k, float* out, size_t ldo) {
  V sum[NQ][NV];
  for (int q = 0; q < NQ; q++)
    for (int v = 0; v < NV; v++) sum[q][v] = load(out + q * ldo + v * kLanes);
  for (int i = 0; i < k; i++) {
    // Hold the fewer of the two in registers: sums, held values and one more are at most 16.
    if constexpr (NQ < NV) {
      V value[NQ];
      for (int q = 0; q < NQ; q++) value[q] = set1(a[q * lda + i]);
      for (int v = 0; v < NV; v++) {
        const V row = load_stored(b + i * ldb + v * kLanes);
        for (int q = 0; q < NQ; q++) sum[q][v] = fma(value[q], row, sum[q][v]);
      }
    } else {
      V row[NV];
      for (int v = 0; v < NV; v++) row[v] = load_stored(b + i * ldb + v * kLanes);
      for (int q = 0; q < NQ; q++) {
        const V value = set1(a[q * lda + i]);
        for (int v = 0; v < NV; v++) sum[q][v] = fma(value, row[v], sum[q][v]);
      }
    }
  }
  for (int q = 0; q < NQ; q++)
    for (int v = 0; v < NV; v++) store(out + q * ldo + v * kLanes, sum[q][v]);
}

template <int NQ, class B>
void accumulate_columns(const float* a, size_t lda, const B* b, size_t ldb, int k, float* out, size_t ldo,
                        int columns) {
  int c = 0;
  if constexpr (NQ <= 3)
    for (; c + 4 * kLanes <= columns; c += 4 * kLanes) accumulate<NQ, 4>(a, lda, b + c, ldb, k, out + c, ldo);
  for (; c + 2 * kLanes <= columns; c += 2 * kLanes) accumulate<NQ, 2>(a, lda, b + c, ldb, k, out + c, ldo);
  if (c < columns) accumulate<NQ, 1>(a, lda, b + c, ldb, k, out + c, ldo);
}

template <class B>
void accumulate_rows(int rows, const float* a, size_t lda, const B* b, size_t ldb, int k, float* out, size_t ldo,
                     int columns) {
  for (; rows >= 6; rows -= 6, a += 6 * lda, out += 6 * ldo)
    accumulate_columns<6>(a, lda, b, ldb, k, out, ldo, columns);
  for (; rows >= 4; rows -= 4, a += 4 * lda, out += 4 * ldo)
    accumulate_columns<4>(a, lda, b, ldb, k, out, ldo, columns);
  switch (rows) {
    case 3: return accumulate_columns<3>(a, lda, b, ldb, k, out, ldo, columns);
    case 2: return accumulate_columns<2>(a, lda, b, ldb, k, out, ldo, columns);
    case 1: return accumulate_columns<1>(a, lda, b, ldb, k, out, ldo, columns);
  }
}

// The block's state. M = queries · rep rows, query after query.
struct Softmax {
  float* queries;  // [M, D]
  float* weights;  // [M, padded P]: scores, then exp(score − peak)
  float* out;      // [M, padded D]
  float* totals;   // [M, lanes]: a lane sums the keys of its positions mod lanes
  float* peaks;    // [M]
  int rows, stride_p, stride_d;
};

Softmax carve(const AttentionJob& job, int queries, float* scratch) {
  Softmax s;
  s.rows = queries * (job.heads / job.groups);
  s.stride_p = pad(job.page_size, kLanes), s.stride_d = pad(job.value_dim, kLanes);
  s.queries = scratch;
  s.weights = s.queries + size_t(s.rows) * job.dim;
  s.out = s.weights + size_t(s.rows) * s.stride_p;
  s.totals = s.out + size_t(s.rows) * s.stride_d;
  s.peaks = s.totals + size_t(s.rows) * kLanes;
  return s;
}

size_t attention_scratch(const AttentionJob& job, int queries) {
  const size_t rows = size_t(queries) * size_t(job.heads / job.groups);
  return rows * size_t(job.dim + pad(job.page_size, kLanes) + pad(job.value_dim, kLanes) + kLanes + 1);
}

// Turn a row of raw products into weights for keys [low, high) of its page, and rescale what came before.
void weigh(const AttentionJob& job, Softmax& s, int row, int low, int high) {
  float* w = s.weights + size_t(row) * s.stride_p;
  const V scale = set1(job.scale);
  V peak = set1(s.peaks[row]);
  for (int c = 0; c < s.stride_p; c += kLanes) {
    V x = mul(load(w + c), scale);
    if (job.softcap > 0) x = mul(tanh(div(x, set1(job.softcap))), set1(job.softcap));
    store(w + c, x);
    if (low > c || high < c + kLanes)
      for (int i = c; i < c + kLanes; i++)
        if (i < low || i >= high) w[i] = -__builtin_inff();
    peak = max(load(w + c), peak);
  }
  const float top = max_lanes(peak);
  const V faded = exp(set1(s.peaks[row] - top));
  V total = mul(load(s.totals + row * kLanes), faded);
  for (int c = 0; c < s.stride_p; c += kLanes) {
    const V e = exp(sub(load(w + c), set1(top)));
    store(w + c, e);
    total = add(total, e);
  }
  store(s.totals + row * kLanes, total);
  float* out = s.out + size_t(row) * s.stride_d;
  for (int c = 0; c < s.stride_d; c += kLanes) store(out + c, mul(load(out + c), faded));
  s.peaks[row] = top;
}

template <class B>
void visit_page(const AttentionJob& job, Softmax& s, int page, int queries, int position, int group) {
  const int rep = job.heads / job.groups, size = job.page_size;
  const size_t place = size_t(job.page_ids[page]) * job.groups + group;
  const B* keys = (const B*)job.keys + place * job.dim * s.stride_p;
  const B* values = (const B*)job.values + place * size * s.stride_d;
  const int begin = page * size;
  // A query at t sees keys [t − window + 1, t] of the row: [low, high) of this page.
  const auto low = [&](int q) {
    return job.window && position + q - job.window + 1 > begin ? position + q - job.window + 1 - begin : 0;
  };
  const auto high = [&](int q) { return position + q + 1 - begin < size ? position + q + 1 - begin : size; };
  int first = 0, last = queries;  // those that see anything here
  while (first < last && high(first) <= 0) first++;
  while (first < last && low(last - 1) >= size) last--;
  if (first == last) return;
  const int rows = (last - first) * rep, from = first * rep;
  float* w = s.weights + size_t(from) * s.stride_p;
  for (int i = 0; i < rows * s.stride_p; i += kLanes) store(w + i, zero());
  accumulate_rows(rows, s.queries + size_t(from) * job.dim, size_t(job.dim), keys, size_t(s.stride_p), job.dim, w,
                  size_t(s.stride_p), s.stride_p);
  for (int q = first; q < last; q++)
    for (int r = 0; r < rep; r++) weigh(job, s, q * rep + r, low(q), high(q));
  for (int q = first; q < last;) {
    int same = q + 1;  // queries that see the same keys go together
    while (same < last && low(same) == low(q) && high(same) == high(q)) same++;
    accumulate_rows((same - q) * rep, s.weights + size_t(q) * rep * s.stride_p + low(q), size_t(s.stride_p),
                    values + size_t(low(q)) * s.stride_d, size_t(s.stride_d), high(q) - low(q),
                    s.out + size_t(q) * rep * s.stride_d, size_t(s.stride_d), s.stride_d);
    q = same;
  }
}

void attention_block(const AttentionJob& job, const float* q, float* y, int queries, int position, int group,
                     float* scratch) {
  Softmax s = carve(job, queries, scratch);
  const int rep = job.heads / job.groups;
  for (int i = 0; i < queries; i++)
    __builtin_memcpy(s.queries + size_t(i) * rep * job.dim, q + (size_t(i) * job.heads + size_t(group) * rep) * job.dim,
                     size_t(rep) * job.dim * 4);
  __builtin_memset(s.out, 0, size_t(s.rows) * (s.stride_d + kLanes) * 4);  // and totals, which follow
  for (int i = 0; i < s.rows; i++) s.peaks[i] = -__builtin_inff();
  const int oldest = job.window && position - job.window + 1 > 0 ? position - job.window + 1 : 0;
  for (int page = oldest / job.page_size; page <= (position + queries - 1) / job.page_size; page++) {
    if (job.half)
      visit_page<uint16_t>(job, s, page, queries, position, group);
    else
      visit_page<float>(job, s, page, queries, position, group);
  }
  for (int i = 0; i < s.rows; i++) {
    const V total = set1(sum_lanes(load(s.totals + i * kLanes)));
    float* out = y + (size_t(i / rep) * job.heads + size_t(group) * rep + i % rep) * job.value_dim;
    map(s.out + size_t(i) * s.stride_d, out, size_t(job.value_dim), [total](V v) { return div(v, total); });
  }
}

}  // namespace
}  // namespace radixmill
