// Attention of one block of queries over the pages of its row. Include after linear.hpp and math.hpp.
//
// Per query: online softmax (Milakov and Gimelshein 2018), page by page in the order of positions, begun afresh at every
// span of kSpan positions; then the spans are joined, in order. So spans of one row can be visited by several threads.
// Per page: scores of a vector of keys at a time, summed over D ascending; one rescaling; then weight · value, one
// multiply-add per visible key in order. Queries that share a block only share loads: each goes through exactly the
// operations it would go through alone. Latents in `fast` mode: see latents.hpp.
#pragma once
#include <type_traits>

#include "rows.hpp"

namespace radixmill {
namespace {

RADIXMILL_INLINE V load_stored(const float* p) { return load(p); }
RADIXMILL_INLINE V load_stored(const uint16_t* p) { return load_half(p); }
RADIXMILL_INLINE V load_stored(const int8_t* p) { return int8_floats((const uint8_t*)p); }

}  // namespace
}  // namespace radixmill

#ifdef RADIXMILL_LATENT_CODES
#include "latents.hpp"
#endif

namespace radixmill {
namespace {

#ifdef RADIXMILL_LATENT_CODES
bool in_codes(const AttentionJob& job) {
  return job.latent && job.fast && job.kind != KV::f32 && worth_codes(job.value_dim);
}
LatentCodes codes_of(const AttentionJob& job, int rows) {
  return {rows, job.page_size, job.value_dim, job.dim - job.value_dim};
}
#endif

// ── products of small blocks ──

// out[q][n] += Σ_k a[q][k] · b[k][n] for NQ rows and NV vectors of columns; `fresh`: out[q][n] was 0.
template <int NQ, int NV, bool fresh, class B>
RADIXMILL_INLINE void accumulate(const float* a, size_t lda, const B* b, size_t ldb, int k, float* out, size_t ldo) {
  V sum[NQ][NV];
  for (int q = 0; q < NQ; q++)
    for (int v = 0; v < NV; v++) sum[q][v] = fresh ? zero() : load(out + q * ldo + v * kLanes);
  for (int i = 0; i < k; i++) {
    // Steps of a cache line or less: ask for what follows in the row, which memory serves late otherwise (measured).
    if constexpr (NQ < NV && sizeof(B) < 4 && NV * kLanes * sizeof(B) <= 64)
      __builtin_prefetch(b + i * ldb + NV * kLanes);
    // Hold the fewer of the two in registers.
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

// Sums, held values and one more fit into the registers.
constexpr bool fits(int rows, int vectors) {
  return rows * vectors + (rows < vectors ? rows : vectors) + 1 <= kRegisters;
}

template <int NQ, bool fresh, class B>
void accumulate_columns(const float* a, size_t lda, const B* b, size_t ldb, int k, float* out, size_t ldo,
                        int columns) {
  int c = 0;
  if constexpr (fits(NQ, 8))
    for (; c + 8 * kLanes <= columns; c += 8 * kLanes) accumulate<NQ, 8, fresh>(a, lda, b + c, ldb, k, out + c, ldo);
  if constexpr (fits(NQ, 4))
    for (; c + 4 * kLanes <= columns; c += 4 * kLanes) accumulate<NQ, 4, fresh>(a, lda, b + c, ldb, k, out + c, ldo);
  for (; c + 2 * kLanes <= columns; c += 2 * kLanes) accumulate<NQ, 2, fresh>(a, lda, b + c, ldb, k, out + c, ldo);
  if (c < columns) accumulate<NQ, 1, fresh>(a, lda, b + c, ldb, k, out + c, ldo);
}

template <bool fresh, class B>
void accumulate_rows(int rows, const float* a, size_t lda, const B* b, size_t ldb, int k, float* out, size_t ldo,
                     int columns) {
  for (; rows >= 6; rows -= 6, a += 6 * lda, out += 6 * ldo)
    accumulate_columns<6, fresh>(a, lda, b, ldb, k, out, ldo, columns);
  for (; rows >= 4; rows -= 4, a += 4 * lda, out += 4 * ldo)
    accumulate_columns<4, fresh>(a, lda, b, ldb, k, out, ldo, columns);
  switch (rows) {
    case 3: return accumulate_columns<3, fresh>(a, lda, b, ldb, k, out, ldo, columns);
    case 2: return accumulate_columns<2, fresh>(a, lda, b, ldb, k, out, ldo, columns);
    case 1: return accumulate_columns<1, fresh>(a, lda, b, ldb, k, out, ldo, columns);
  }
}

// ── a block ──

// What a block's queries have found so far, over one span or over several. M = queries · rep rows, query after query.
struct Softmax {
  float* out;     // [M, padded D]
  float* totals;  // [M, lanes]: a lane sums the keys of its positions mod lanes
  float* peaks;   // [M]
  int rows, stride;

  static size_t floats(int rows, int stride) { return size_t(pad(rows * (stride + kLanes + 1), kMostLanes)); }

  Softmax(float* memory, int rows, int stride) : out(memory), rows(rows), stride(stride) {
    totals = out + size_t(rows) * stride;
    peaks = totals + size_t(rows) * kLanes;
  }
  void clear(int first, int end) {
    __builtin_memset(out + size_t(first) * stride, 0, size_t(end - first) * stride * 4);
    __builtin_memset(totals + size_t(first) * kLanes, 0, size_t(end - first) * kLanes * 4);
    for (int i = first; i < end; i++) peaks[i] = -__builtin_inff();
  }
  void clear() { clear(0, rows); }
};

constexpr int kLatentColumns = 64;  // of latents as values, 16 KiB a page

// The sizes that follow from a job.
struct Sizes {
  int rep, rows, stride_p, stride_d, stride_q, tile_rows;

  Sizes(const AttentionJob& job, int queries, int heads) {
    rep = heads, rows = queries * rep;
    stride_p = pad(job.page_size, kLanes), stride_d = pad(job.value_dim, kLanes);
    stride_q = job.latent ? pad(job.dim, kLanes) : job.dim;
    tile_rows = (job.latent || queries < kQueryTile ? queries : kQueryTile) * rep;
  }
  size_t queries() const { return size_t(pad(rows * stride_q, kMostLanes)); }
  size_t weights() const { return size_t(tile_rows) * stride_p; }
  // Of one page and key head.
  size_t keys(const AttentionJob& job) const {
    return job.latent ? size_t(job.page_size) * stride_q : size_t(job.dim) * stride_p;
  }
  size_t values(const AttentionJob& job) const { return size_t(job.page_size) * stride_d; }
  // Of a page, or of some latents or some columns of them, as floats.
  size_t widened(const AttentionJob& job) const {
    if (!job.latent) return keys(job) + values(job);
    const size_t columns = size_t(job.page_size) * kLatentColumns, strip = size_t(kKeyStrip) * stride_q;
    return columns > strip ? columns : strip;
  }
  size_t state() const { return Softmax::floats(rows, stride_d); }
};

size_t attention_state(const AttentionJob& job, int queries) { return Sizes(job, queries, shared_heads(job)).state(); }

size_t attention_scratch(const AttentionJob& job, int queries) {
  const Sizes s(job, queries, shared_heads(job));
#ifdef RADIXMILL_LATENT_CODES
  if (in_codes(job)) return 2 * s.state() + s.weights() + codes_of(job, s.rows).floats();
#endif
  return s.queries() + 2 * s.state() + s.weights() + s.widened(job);
}

// One page of one key head; B is the type it is read as, `coded` says whether there are scales.
template <class B, bool coded>
struct PageView {
  const B* keys;                            // [D, padded P]; of latents [P, padded D]
  const B* values;                          // [P, pitch]
  int pitch;
  const float *key_scales, *value_scales;   // [padded P] where coded
  int begin;                                // the position of its first slot
};

template <class B>
void widen(const B* from, float* to, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += kLanes) store(to + i, load_stored(from + i));
}

// A block at work.
class Visitor {
 public:
  Visitor(const AttentionJob& job, const AttentionBlock& block, float* scratch)
      : job_(job), block_(block), size_(job, block.queries, block.heads) {
    spare_ = scratch;
    weights_ = spare_ + 2 * size_.state();
    queries_ = weights_ + size_.weights();
    keys_ = queries_ + size_.queries();
    values_ = keys_ + size_.keys(job);
#ifdef RADIXMILL_LATENT_CODES
    if (in_codes(job)) codes_.use(queries_);
#endif
  }

  Softmax spare(int i) const { return state(spare_ + i * size_.state()); }
  Softmax state(float* memory) const { return Softmax(memory, size_.rows, size_.stride_d); }

  void take_queries() {
    const int rep = size_.rep, dim = job_.dim, stride = size_.stride_q;
    for (int i = 0; i < block_.queries; i++) {
      const float* from = block_.q + size_t(i * job_.heads + block_.head) * dim;
#ifdef RADIXMILL_LATENT_CODES
      if (in_codes(job_)) {
        for (int r = 0; r < rep; r++) codes_.take_query(i * rep + r, from + size_t(r) * dim);
        continue;
      }
#endif
      float* to = queries_ + size_t(i) * rep * stride;
      if (stride == dim) {
        __builtin_memcpy(to, from, size_t(rep) * dim * 4);
        continue;
      }
      for (int r = 0; r < rep; r++, from += dim, to += stride) {
        __builtin_memcpy(to, from, size_t(dim) * 4);
        __builtin_memset(to + dim, 0, size_t(stride - dim) * 4);
      }
    }
  }

  // Everything that the span's keys are to the block.
  void visit(int span, Softmax s) {
    s.clear();
    const int pages = span_pages(job_.page_size), last = (block_.position + block_.queries - 1) / job_.page_size;
    for (int page = span * pages; page < (span + 1) * pages && page <= last; page++) switch (job_.kind) {
        case KV::f32: visit_page<float>(page, s); break;
        case KV::f16: visit_page<uint16_t>(page, s); break;
        case KV::int8: visit_page<int8_t>(page, s); break;
      }
  }

  int rows() const { return size_.rows; }

  // What a span found for rows [first, last), added to what earlier ones did. Queries that see nothing of it are left as
  // they are.
  void join(Softmax all, const Softmax& found, int span, int first, int last) const {
    const int size = span_pages(job_.page_size) * job_.page_size, begin = span * size;
    for (int row = first; row < last; row++) {
      const int q = row / size_.rep;
      if (low(q, begin) >= size || high(q, begin, size) <= 0) continue;
      const float top = found.peaks[row] > all.peaks[row] ? found.peaks[row] : all.peaks[row];
      const V old = exp_fading(set1(all.peaks[row] - top)), now = exp_fading(set1(found.peaks[row] - top));
      const auto add_up = [&](float* x, const float* y, int n) {
        for (int c = 0; c < n; c += kLanes) store(x + c, fma(load(y + c), now, mul(load(x + c), old)));
      };
      add_up(all.out + size_t(row) * all.stride, found.out + size_t(row) * all.stride, all.stride);
      add_up(all.totals + row * kLanes, found.totals + row * kLanes, kLanes);
      all.peaks[row] = top;
    }
  }

  // A head's sink is one more score, of a key without a value.
  void finish(const Softmax& all, int first, int last) const {
    for (int row = first; row < last; row++) {
      const int head = block_.head + row % size_.rep;
      V total = set1(sum_lanes(load(all.totals + row * kLanes))), faded = set1(1);
      if (job_.sinks) {
        const float sink = job_.sinks[head], top = sink > all.peaks[row] ? sink : all.peaks[row];
        faded = exp_fading(set1(all.peaks[row] - top));
        total = add(mul(total, faded), exp_fading(set1(sink - top)));
      }
      float* y = block_.y + size_t(row / size_.rep * job_.heads + head) * job_.value_dim;
      map(all.out + size_t(row) * all.stride, y, size_t(job_.value_dim),
          [total, faded](V v) { return div(mul(v, faded), total); });
    }
  }

 private:
  int group() const { return block_.head / (job_.heads / job_.groups); }

  // Query q at position t sees keys (t − window, t] of the row: slots [low, high) of a page that begins at `begin`, if
  // low is below the page's size and high above 0.
  int low(int q, int begin) const {
    const int oldest = job_.window ? block_.position + q - job_.window + 1 - begin : 0;
    return oldest > 0 ? oldest : 0;
  }
  int high(int q, int begin, int size) const {
    const int end = block_.position + q + 1 - begin;
    return end < size ? end : size;
  }

  template <class B>
  void visit_page(int page, Softmax& s) {
    const int size = job_.page_size, begin = page * size;
    int first = 0, last = block_.queries;  // those that see anything here
    while (first < last && high(first, begin, size) <= 0) first++;
    while (first < last && low(last - 1, begin) >= size) last--;
    if (first == last) return;
    const size_t place = size_t(job_.page_ids[page]) * job_.groups + group(), scales = place * size_.stride_p;
    const B* keys = (const B*)job_.keys + place * size_.keys(job_);
    const B* values = job_.latent ? keys : (const B*)job_.values + place * size_.values(job_);
    constexpr bool coded = std::is_same_v<B, int8_t>;
    const float *key_scales = coded ? job_.key_scales + scales : nullptr,
                *value_scales = coded ? job_.value_scales + scales : nullptr;
    const int pitch = job_.latent ? size_.stride_q : size_.stride_d;
    const PageView<B, coded> stored{keys, values, pitch, key_scales, value_scales, begin};
#ifdef RADIXMILL_LATENT_CODES
    if constexpr (!std::is_same_v<B, float>)
      if (in_codes(job_)) {
        const bool more = (page + 1) * size < block_.position + block_.queries;
        const size_t next = more ? size_t(job_.page_ids[page + 1]) * job_.groups + group() : 0;
        return visit_codes(stored, more ? (const B*)job_.keys + next * size_.keys(job_) : nullptr, first, last, s);
      }
#endif
    if (job_.latent) return visit_latents(stored, first, last, s);
    if (std::is_same_v<B, float> || (last - first) * size_.rep < kWorthWidening)
      return visit_tiles(stored, first, last, s);
    // Many rows read the page: make floats of it once.
    widen(keys, keys_, 0, size_.keys(job_));
    widen(values, values_, size_t(low(first, begin)) * size_.stride_d,
          size_t(high(last - 1, begin, size)) * size_.stride_d);
    visit_tiles(PageView<float, coded>{keys_, values_, pitch, key_scales, value_scales, begin}, first, last, s);
  }

#ifdef RADIXMILL_LATENT_CODES
  // The same in integers; `ahead` is the row's next page, or null.
  template <class B, bool coded>
  void visit_codes(const PageView<B, coded>& page, const B* ahead, int first, int last, Softmax& s) {
    const int rep = size_.rep, begin = page.begin, size = job_.page_size;
    const int from = low(first, begin) & -kKeyStrip, to = high(last - 1, begin, size);
    const int row = first * rep, rows = (last - first) * rep;
    for (int key = from; key < to; key += kKeyStrip) {
      const int end = key + kKeyStrip < to ? key + kKeyStrip : to;
      const char* next = ahead ? (const char*)(ahead + size_t(key) * page.pitch) : nullptr;
      const size_t bytes = ahead ? size_t(end - key) * page.pitch * sizeof(B) : 0;
      codes_.take_keys(page.keys, page.pitch, page.key_scales, key, end);
      codes_.score(row, rows, key, end, next, bytes, weights_, size_t(size_.stride_p));
    }
    // The scales are in the scores already; a value's goes into its weight.
    const PageView<float, true> seen{nullptr, nullptr, 0, nullptr, codes_.scales(), begin};
    for (int q = first; q < last; q++)
      for (int r = 0; r < rep; r++) {
        const int one = q * rep + r, oldest = low(q, begin), end = high(q, begin, size);
        float* weights = weights_ + size_t(one - row) * size_.stride_p;
        *codes_.fading(one) = weigh(seen, weights, one, oldest, end, s);
        codes_.take_weights(one, weights, oldest, end, from, to);
      }
    codes_.add_values(row, rows, from, to, s.out, s.stride);
  }
#endif

  template <class B>
  static const float* as_floats(const B* from, float* spare, int n) {
    if constexpr (std::is_same_v<B, float>) return from;
    widen(from, spare, 0, size_t(n));
    return spare;
  }

  // Latents lie as rows: a few at a time become floats for the scores, then some columns of them as values.
  template <class B, bool coded>
  void visit_latents(const PageView<B, coded>& page, int first, int last, Softmax& s) {
    const int rep = size_.rep, begin = page.begin, size = job_.page_size, pitch = page.pitch;
    const int from = low(first, begin) & -kKeyStrip, to = high(last - 1, begin, size);
    for (int key = from; key < to; key += kKeyStrip) {
      const float* strip[kKeyStrip];
      for (int i = 0; i < kKeyStrip; i++)
        strip[i] = as_floats(page.keys + size_t(key + i < size ? key + i : size - 1) * pitch, keys_ + i * pitch, pitch);
      score_strip((last - first) * rep, queries_ + size_t(first) * rep * pitch, size_t(pitch), strip, pitch,
                  weights_ + key, size_t(size_.stride_p));
    }
    weigh_tile(page, first, last, s);
    // Some columns of all keys stay near while every row takes them.
    for (int c = 0; c < s.stride; c += kLatentColumns) {
      const int columns = s.stride - c < kLatentColumns ? s.stride - c : kLatentColumns;
      if constexpr (std::is_same_v<B, float>) {
        add_tile(page.keys + c, pitch, begin, first, last, s, c, columns);
      } else {
        for (int key = low(first, begin); key < to; key++)
          as_floats(page.keys + size_t(key) * pitch + c, keys_ + size_t(key) * kLatentColumns, columns);
        add_tile(keys_, kLatentColumns, begin, first, last, s, c, columns);
      }
    }
  }

  template <class B, bool coded>
  void visit_tiles(const PageView<B, coded>& page, int first, int last, Softmax& s) {
    for (; first < last; first += kQueryTile)
      visit_tile(page, first, first + kQueryTile < last ? first + kQueryTile : last, s);
  }

  // Queries [first, last), each of which sees something of the page.
  template <class B, bool coded>
  void visit_tile(const PageView<B, coded>& page, int first, int last, Softmax& s) {
    const int rep = size_.rep, begin = page.begin, size = job_.page_size;
    const int from = low(first, begin) & -kLanes, to = pad(high(last - 1, begin, size), kLanes);
    accumulate_rows<true>((last - first) * rep, queries_ + size_t(first) * rep * job_.dim, size_t(job_.dim),
                          page.keys + from, size_t(size_.stride_p), job_.dim, weights_ + from, size_t(size_.stride_p),
                          to - from);
    weigh_tile(page, first, last, s);
    add_tile(page.values, page.pitch, begin, first, last, s, 0, s.stride);
  }

  template <class B, bool coded>
  void weigh_tile(const PageView<B, coded>& page, int first, int last, Softmax& s) const {
    const int rep = size_.rep, begin = page.begin;
    for (int q = first; q < last; q++)
      for (int r = 0; r < rep; r++) {
        const int row = q * rep + r;
        const V faded = set1(weigh(page, weights_ + size_t(row - first * rep) * size_.stride_p, row, low(q, begin),
                                   high(q, begin, job_.page_size), s));
        float* out = s.out + size_t(row) * s.stride;
        for (int c = 0; c < s.stride; c += kLanes) store(out + c, mul(load(out + c), faded));
      }
  }

  // Weight · value for `columns` columns of the tile's queries, which begin at `column` of their outputs and at `values`.
  template <class B>
  void add_tile(const B* values, int pitch, int begin, int first, int last, Softmax& s, int column, int columns) const {
    const int rep = size_.rep, size = job_.page_size;
    const auto add_values = [&](int q, int end, int key, int stop) {
      if (key < stop)
        accumulate_rows<false>((end - q) * rep, weights_ + size_t(q - first) * rep * size_.stride_p + key,
                               size_t(size_.stride_p), values + size_t(key) * pitch, size_t(pitch), stop - key,
                               s.out + size_t(q) * rep * s.stride + column, size_t(s.stride), columns);
    };
    // Keys that all of them see are added together, those before and after by each query for itself.
    int together = low(last - 1, begin), apart = high(first, begin, size);
    if (together >= apart) together = apart = 0;
    for (int q = first; q < last; q++) add_values(q, q + 1, low(q, begin), together);
    add_values(first, last, together, apart);
    for (int q = first; q < last; q++)
      add_values(q, q + 1, apart > low(q, begin) ? apart : low(q, begin), high(q, begin, size));
  }

  // Turn a row of raw products into weights for keys [low, high) of its page; the factor for what came before. Weights of
  // other keys in the same vectors are 0, or NaN: nobody reads them.
  template <class B, bool coded>
  float weigh(const PageView<B, coded>& page, float* w, int row, int low, int high, Softmax& s) const {
    const int from = low & -kLanes, to = pad(high, kLanes);
    const V scale = set1(job_.scale), hidden = set1(-__builtin_inff()), lane = load(kLaneNumbers);
    V peak = set1(s.peaks[row]);
    for (int c = from; c < to; c += kLanes) {
      V x = load(w + c);
      if (coded && page.key_scales) x = mul(x, load(page.key_scales + c));
      x = mul(x, scale);
      if (job_.softcap > 0) x = mul(tanh(div(x, set1(job_.softcap))), set1(job_.softcap));
      if (low > c) x = where_less(lane, set1(float(low - c)), hidden, x);
      if (high < c + kLanes) x = where_less(lane, set1(float(high - c)), x, hidden);
      store(w + c, x);
      peak = max(x, peak);
    }
    // Where the peak stays, everything is multiplied by 1: a branch that is hard to foresee would cost more.
    const float top = max_lanes(peak);
    const V faded = exp_fading(set1(s.peaks[row] - top));
    V total = mul(load(s.totals + row * kLanes), faded);
    for (int c = from; c < to; c += kLanes) {
      const V e = exp_fading(sub(load(w + c), set1(top)));
      total = add(total, e);
      store(w + c, coded ? mul(e, load(page.value_scales + c)) : e);
    }
    store(s.totals + row * kLanes, total);
    s.peaks[row] = top;
    float factors[kLanes];
    store(factors, faded);
    return factors[0];
  }

  static constexpr int kWorthWidening = 18;  // rows

  const AttentionJob& job_;
  const AttentionBlock& block_;
  Sizes size_;
  float* queries_;  // [M, D], of latents padded with zeros
  float* spare_;    // two states
  float* weights_;  // [rows of a tile, padded P]: scores, then exp(score − peak)
  float* keys_;     // one page as floats
  float* values_;
#ifdef RADIXMILL_LATENT_CODES
  LatentCodes codes_ = codes_of(job_, size_.rows);  // in place of queries and pages, where in_codes()
#endif
};

void attention_span(const AttentionJob& job, const AttentionBlock& block, int span, float* state, float* scratch) {
  Visitor visitor(job, block, scratch);
  visitor.take_queries();
  visitor.visit(span, visitor.state(state));
}

void attention_join(const AttentionJob& job, const AttentionBlock& block, Spans found, float* states, float* so_far, int part,
                    int parts, float* scratch) {
  const Visitor visitor(job, block, scratch);
  const size_t size = attention_state(job, block.queries);
  const Spans spans = spans_of(job, block);
  const int first = visitor.rows() * part / parts, last = visitor.rows() * (part + 1) / parts;
  Softmax all = visitor.state(so_far);
  if (found.first == spans.first) all.clear(first, last);
  for (int span = found.first; span < found.end; span++)
    visitor.join(all, visitor.state(states + size_t(span - found.first) * size), span, first, last);
  if (found.end == spans.end) visitor.finish(all, first, last);
}

// Spans between two beats: 0.05 to 50 ms of work, by the rows.
constexpr int kQuietSpans = 8;

void attention_block(const AttentionJob& job, const AttentionBlock& block, float* scratch) {
  Visitor visitor(job, block, scratch);
  visitor.take_queries();
  const Spans spans = spans_of(job, block);
  Softmax all = visitor.spare(0), found = visitor.spare(1);
  all.clear();
  for (int span = spans.first; span < spans.end; span++) {
    visitor.visit(span, found);
    visitor.join(all, found, span, 0, visitor.rows());
    if (span % kQuietSpans == 0) beat(job.word);
  }
  visitor.finish(all, 0, visitor.rows());
}

}  // namespace
}  // namespace radixmill
