// The ops over raw pointers: checks that nothing leaves its array, and shares the work among the pool's threads.
#pragma once
#include <algorithm>
#include <mutex>
#include <vector>

#include "grouped.hpp"

namespace radixmill {

// One layer's pages. keys [pages, G, D, stride], values [pages, G, P, width]: P and Dv padded to whole vectors. int8 has
// scales, [pages, G, stride] each. Latent ones: keys [pages, G, P, width], D padded with zeros, and values the same memory.
struct Pages {
  KV kind;
  uint8_t *keys, *values;
  float *key_scales, *value_scales;  // null unless int8
  int pages, page_size, groups, dim, value_dim, lanes;
  bool latent;

  size_t item() const { return item_bytes(kind); }
  size_t stride() const { return size_t(pad(page_size, lanes)); }
  size_t width() const { return size_t(pad(latent ? dim : value_dim, lanes)); }
  size_t key_page() const { return latent ? value_page() : size_t(groups) * dim * stride(); }  // items
  size_t value_page() const { return size_t(groups) * page_size * width(); }
  size_t scale_page() const { return size_t(groups) * stride(); }
};

// Which queries belong to which row; see Ragged in contract.py.
struct Ragged {
  int rows;
  const int32_t *query_starts, *starts, *page_ids, *page_starts;

  int queries(int row) const { return query_starts[row + 1] - query_starts[row]; }
};

// What becomes of a layer's projections; see Heads and Ops.qkv in contract.py. Rows of q, k, v lie `stride` floats apart.
struct QkvJob {
  const float *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  int heads;
  const int32_t* positions;
  const float *cos, *sin;  // [limit, half]
  int limit, half;
  const float *q_norm, *k_norm;  // [D] or null
  float eps;
};

// What becomes of a layer's queries and latents; see LatentHeads and Ops.latents in contract.py.
struct LatentJob {
  const float *q, *latent;  // [t, H · (nope + rope)], [t, rank + rope]
  const Stacks* up;         // [H] of [rank, nope]
  int rope;
  const int32_t* positions;
  const float *cos, *sin;  // [limit, half]
  int limit, half;
  const float* norm;  // [rank]
  float eps;

  int64_t query() const { return up->k() + rope; }  // of one head
};

// What a layer makes of its queries; see AttentionParams in contract.py.
struct Scores {
  float scale;
  int window;          // 0: none
  float softcap;       // 0: none
  const float* sinks;  // [heads] or null
};

// What becomes of the rows of x before they enter a product.
struct Source {
  enum Kind { plain, norm, gated } kind = plain;
  const float* weight = nullptr;  // norm: [K]
  float eps = 0;
  Activation activation = Activation::silu;  // gated: x has 2K columns
};

// Throws std::invalid_argument or std::out_of_range for a batch that leaves its pages.
void check(const Pages& kv, const Ragged& ragged);
// std::out_of_range, in the op's name, unless each is in [0, limit).
void check_positions(const int32_t* positions, int tokens, int limit, const char* op);

class Engine {
 public:
  Engine(const Kernels& kernels, int threads, bool fast);

  Pool& pool() { return pool_; }
  std::mutex& mutex() { return mutex_; }  // to be held during a call

  int lanes() const { return kernels_.lanes; }
  // y [t, N] = source(x) · Wᵀ + bias, or that added to what y holds. `bias` [N] or null.
  void product(const Source& source, const Stack& w, const float* x, int t, const float* bias, float* y, bool add);
  // n rows of k values of a float kind → the blocks of Q8_0 or Q4_1. Throws std::invalid_argument for other kinds.
  void blocks(const std::string& from, const uint8_t* x, int n, int k, const std::string& to, uint8_t* out);
  void embed(const Matrix& w, const int64_t* ids, int t, float scale, float* y);
  void rms_norm(const float* x, const float* weight, float* y, int64_t rows, int k, float eps);
  // x [rows, groups · k], weight [groups, k].
  void layer_norm(const float* x, const float* weight, float* y, int64_t rows, int groups, int k, float eps);
  void add(float* x, const float* y, int64_t n);
  void scale(const float* x, float* y, int64_t n, float by);
  void softcap(const float* x, float* y, int64_t n, float cap);
  void gated(const float* gate_up, float* y, int t, int f, Activation activation);
  // x [t, k] times the sigmoid of gate [t].
  void dimmed(float* x, const float* gate, int t, int k);
  // logits [t, E] → [t, 2k].
  void route(const float* logits, const float* bias, float* y, int t, const Routing& routing);
  // routes [t, 2 · top]; throws std::out_of_range for an expert that there is not.
  void experts(const Mixture& mixture, const float* x, const float* routes, int t, int top, float* y);
  // A matrix for each head.
  void heads(const Stacks& w, Strided<const float> x, int t, Strided<float> y);
  // x [t, heads, dim]; cos, sin [limit, half].
  void rope(float* x, int t, int heads, int dim, const int32_t* positions, const float* cos, const float* sin,
            int limit, int half);
  void qkv(const Pages& kv, const QkvJob& job, const Ragged& ragged, float* y);
  // y [t, H, rank + rope]
  void latents(const Pages& kv, const LatentJob& job, const Ragged& ragged, float* y);
  void kv_store(const Pages& kv, const float* k, const float* v, const Ragged& ragged);
  void kv_copy(const Pages& kv, int src, int dst, int tokens);
  void attention(const Pages& kv, const float* q, float* y, int heads, const Ragged& ragged, const Scores& scores);

 private:
  // Queries of one row against one key head; where its spans are visited apart, what all of them came to so far, and what
  // each of the current run found.
  struct Block {
    AttentionBlock queries;
    const int32_t* page_ids;
    Spans spans;
    float* states;
  };
  // The run of a block's spans that begins `from` after its first.
  Spans run_of(const Block& block, int from) const {
    const int first = std::min(block.spans.end, block.spans.first + from);
    return {first, std::min(block.spans.end, first + run_)};
  }
  // A block, or one span of it.
  struct Part {
    int block, span;
  };

  // Panels [from, to) of a product.
  struct Piece {
    const Product* product;
    int from, to;
  };

  template <class F>
  void spread(int64_t rows, int64_t row_cost, const F& f);
  Wanted wanted(const Matrix& m) const;
  void fill(const Source& source, const float* row, int k, const int64_t* order, Prepared& rows, size_t at, Wanted wanted,
            int worker);
  void prepare(const Source& source, const float* x, int t, int k, const int64_t* order, Wanted wanted, Prepared& rows);
  void multiply(bool add);
  template <class F>
  void plan(const Stack& w, int t, int64_t ready, const float* bias, float* y, size_t stride, const F& where);
  Wanted all_wanted() const;
  void multiply_planned(const Source& source, int k);
  bool as_it_lies(const Stack& w) const;
  void some_heads(const Stacks& w, Strided<const float> x, int t, Strided<float> y);
  void group(const float* routes, int t, int top, int64_t experts);
  void some_experts(const Mixture& mixture, const float* x, const float* routes, int t, int top, float* y);
  template <class F>
  void spread_flat(int64_t n, int cost, const F& f);
  float* scratch(int worker, size_t floats);
  template <class F>
  void each_position(const Pages& kv, const Ragged& ragged, int64_t cost, size_t floats, const F& f);
  void turned(const float* x, float* y, int heads, int dim, const float* norm, const QkvJob& job, int position);
  const float* rotated(const float* q, int64_t heads, int dim);
  void cut_queries(const AttentionJob& job, const float* q, float* y, const Ragged& ragged);
  void cut_spans(const AttentionJob& job);
  void take_parts(int from);
  void attend(const AttentionJob& job, int from);
  static size_t room(const Pages& kv);
  void store_head(const Pages& kv, const float* key, const float* value, size_t page, int slot, int group,
                  float* memory);
  void store_latent(const Pages& kv, const float* key, size_t page, int slot, int group);

  const Kernels& kernels_;
  bool fast_;
  std::mutex mutex_;
  Pool pool_;
  std::vector<std::vector<float>> scratch_;  // one per thread
  // Of the current product(), or the stage of experts() and heads().
  Prepared tokens_, slots_;
  std::vector<Product> products_;
  std::vector<Fill> fills_;
  std::vector<Piece> pieces_;
  std::vector<int64_t> pairs_, places_, starts_, next_;
  Buffer<uint8_t> between_;
  size_t between_bytes_ = 0;
  // Of the current attention().
  std::vector<Block> blocks_;
  std::vector<Part> parts_;
  std::vector<float> queries_;
  std::vector<int> apart_;  // blocks whose spans are parts of their own
  int run_ = 0, longest_ = 0;  // spans of such a block: visited in one go, and at most there
  Buffer<uint8_t> states_;
  size_t states_bytes_ = 0;
};

constexpr int64_t kWorthSharing = 8192;  // values below which a job stays with the caller
constexpr int64_t kMostAtOnce = 1 << 24;  // values in a piece of a job, which is over, on any machine, within a second

// f(from, to, worker) over [0, rows), in pieces if `rows` rows of `row_cost` values are worth it.
template <class F>
void Engine::spread(int64_t rows, int64_t row_cost, const F& f) {
  if (rows * row_cost < kWorthSharing) return f(int64_t(0), rows, 0);
  const int64_t piece = std::max<int64_t>(1, std::min(rows / (4 * pool_.threads()), kMostAtOnce / row_cost));
  pool_.run((rows + piece - 1) / piece,
            [&](int64_t task, int worker) { f(task * piece, std::min(rows, (task + 1) * piece), worker); });
}

}  // namespace radixmill
