#include "engine.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "stored.hpp"

namespace radixmill {

namespace {

constexpr int kBlockRows = 96;      // query heads that share one visit of a page
constexpr int kMostQueries = 48;
constexpr int kMostShare = 64;   // query heads that read a latent together
constexpr int kManyTokens = 16;  // from so many on a piece of a product may be long, and tells on the way that it gets on
constexpr int kJoinParts = 8;       // of a block's rows: there may be no other block for the other threads to join
constexpr int kPartsPerThread = 4;  // attention is cut until no part is more than this share of a thread's work
constexpr size_t kMostStates = size_t(32) << 20;  // bytes of what spans that are visited apart have found

// Queries in a block: as many as share a page well, fewer where threads would have nothing to do. No bit depends on it.
int block_queries(const AttentionJob& job, int tokens, int threads) {
  if (job.latent) return std::clamp(kBlockRows / job.share, 1, kQueryTile);
  const int rep = job.heads / job.groups, share = tokens * job.groups / (2 * kPartsPerThread * threads);
  const int most = std::min(kMostQueries, std::min(kBlockRows / rep, share));
  return std::max(most / kQueryTile * kQueryTile, kQueryTile);
}

// Query heads that read a latent together: enough that a page is seldom made floats or codes of, few enough that what they
// have found stays near, and that there are several blocks for the threads to join. No bit depends on it.
int latent_share(int heads) {
  const int blocks = (heads + kMostShare - 1) / kMostShare;
  return (heads + blocks - 1) / blocks;
}

}  // namespace

Engine::Engine(const Kernels& kernels, int threads, bool fast)
    : kernels_(kernels), fast_(fast), pool_(threads), scratch_(size_t(pool_.threads())) {}

// 64-byte aligned: no vector crosses a cache line.
float* Engine::scratch(int worker, size_t floats) {
  auto& mine = scratch_[size_t(worker)];
  if (mine.size() < floats + kMostLanes) mine.resize(floats + kMostLanes);
  return (float*)((uintptr_t(mine.data()) + 63) & ~uintptr_t(63));
}

// One row of x, after what the source makes of it and with its columns in that order, → row `at` of `rows`.
void Engine::fill(const Source& source, const float* row, int k, const int64_t* order, Prepared& rows, size_t at,
                  Wanted wanted, int worker) {
  float* own = scratch(worker, 2 * size_t(k));
  float* y = wanted.floats ? rows.made.data() + at * size_t(k) : own;
  if (source.kind != Source::plain) {
    float* out = order ? own + k : y;
    if (source.kind == Source::norm)
      kernels_.rms_norm(row, source.weight, out, k, source.eps);
    else
      kernels_.gated(row, row + k, out, k, source.activation);
    row = out;
  }
  if (order) {
    for (int c = 0; c < k; c++) y[c] = row[order[c]];
    row = y;
  }
  if (wanted.floats && row != y) memcpy(y, row, size_t(k) * 4);
  if (wanted.codes) kernels_.quantise(row, k, rows.row(at, k));
  if (wanted.pairs) kernels_.to_bf16(row, k, rows.pairs_at(at, k));
}

// The rows that a product reads, as floats, as codes, as bf16, or several of them. Floats to which nothing is done stay
// where they are.
void Engine::prepare(const Source& source, const float* x, int t, int k, const int64_t* order, Wanted wanted,
                     Prepared& rows) {
  const bool changed = source.kind != Source::plain || order;
  if (!changed) wanted.floats = false;
  rows.make_room(size_t(t), k, wanted);
  if (!changed) rows.floats = x;
  if (!wanted.floats && !wanted.codes && !wanted.pairs) return;
  const int64_t width = int64_t(k) * (source.kind == Source::gated ? 2 : 1);
  spread(t, int64_t(k) * (source.kind == Source::gated ? 5 : 2), [&](int64_t from, int64_t to, int worker) {
    for (int64_t i = from; i < to; i++) fill(source, x + i * width, k, order, rows, size_t(i), wanted, worker);
  });
}

// All of products_, in pieces small enough that no thread waits long for the last one, large enough to be worth a turn of
// the counter.
void Engine::multiply(bool add) {
  int64_t all = 0;
  int most = 0;
  for (const Product& product : products_) {
    all += int64_t(product.matrix->n()) * product.t;
    most = std::max(most, product.t);
  }
  pieces_.clear();
  for (const Product& product : products_) {
    const int64_t share = all / std::max(1, 8 * pool_.threads() * product.t);
    const int size = int(std::clamp<int64_t>(share, 32, 512)) / kernels_.lanes, panels = product.matrix->panels();
    for (int from = 0; from < panels; from += size) pieces_.push_back({&product, from, std::min(panels, from + size)});
  }
  pool_.run(int64_t(pieces_.size()), [&](int64_t task, int worker) {
    const auto& [product, from, to] = pieces_[size_t(task)];
    const Matrix& m = *product->matrix;
    const int k = m.k();
    if (product->x) {
      const LinearJob job{m.format(), m.data(), product->t, m.n(), k, product->x, {}, nullptr, product->bias, product->y,
                          product->stride, add, product->t >= kManyTokens ? pool_.word() : nullptr, product->apart};
      return kernels_.linear(job, from, to, scratch(worker, kernels_.linear_scratch(most)));
    }
    Prepared& rows = *product->rows;
    const Wanted one = wanted(m);
    const LinearJob job{m.format(), m.data(), product->t, m.n(), k,
                        one.floats ? rows.floats + product->row * size_t(k) : nullptr,
                        one.codes ? rows.row(product->row, k) : Codes{},
                        one.pairs ? rows.pairs_at(product->row, k) : nullptr, product->bias, product->y,
                        product->stride, add, product->t >= kManyTokens ? pool_.word() : nullptr};
    kernels_.linear(job, from, to, scratch(worker, kernels_.linear_scratch(most)));
  });
}

void Engine::blocks(const std::string& from, const uint8_t* x, int n, int k, const std::string& to, uint8_t* out) {
  const Kind *source = find_kind(from, k), *target = find_kind(to, k);
  if (!source || source->format >= Format::f8 || !target || (target->format != Format::w8 && target->format != Format::w4))
    throw std::invalid_argument("no way from " + from + " to " + to + " with rows of " + std::to_string(k));
  const size_t in_row = stored_row_bytes(from, k), out_row = stored_row_bytes(to, k);
  spread(n, k, [&](int64_t first, int64_t last, int) {
    for (int64_t r = first; r < last; r++)
      kernels_.blocks(source->format, x + r * in_row, k, target->format, out + r * out_row);
  });
}

// How a matrix wants its rows.
Wanted Engine::wanted(const Matrix& m) const {
  const bool codes = fast_ && is_quantised(m.format());
  const bool pairs = fast_ && m.format() == Format::bf16 && kernels_.to_bf16;
  return {!codes && !pairs, codes, pairs};
}

// Parts that see their columns in one order are multiplied together.
void Engine::product(const Source& source, const Stack& w, const float* x, int t, const float* bias, float* y,
                     bool add) {
  const size_t stride = size_t(w.n());
  for (size_t first = 0, last; first < w.matrices.size(); first = last) {
    products_.clear();
    for (last = first; last < w.matrices.size() && w.orders[last] == w.orders[first]; last++) {
      products_.push_back({w.matrices[last], &tokens_, 0, t, bias, y, stride});
      y += w.matrices[last]->n();
      if (bias) bias += w.matrices[last]->n();
    }
    prepare(source, x, t, w.k(), w.orders[first], all_wanted(), tokens_);
    multiply(add);
  }
}

void Engine::embed(const Matrix& w, const int64_t* ids, int t, float scale, float* y) {
  for (int i = 0; i < t; i++)
    if (ids[i] < 0 || ids[i] >= w.n()) throw std::out_of_range("embed: no such row");
  spread(t, 4 * w.k(), [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++) w.row(ids[i], scale, y + i * w.k());
  });
}

void Engine::rms_norm(const float* x, const float* weight, float* y, int64_t rows, int k, float eps) {
  spread(rows, k, [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++) kernels_.rms_norm(x + i * k, weight, y + i * k, k, eps);
  });
}

void Engine::layer_norm(const float* x, const float* weight, float* y, int64_t rows, int groups, int k, float eps) {
  spread(rows, 2 * int64_t(groups) * k, [&](int64_t from, int64_t to, int) {
    for (int64_t i = from * groups; i < to * groups; i++)
      kernels_.layer_norm(x + i * k, weight + i % groups * k, y + i * k, k, eps);
  });
}

// A flat array, cut at multiples of 1024.
template <class F>
void Engine::spread_flat(int64_t n, int cost, const F& f) {
  constexpr int64_t cut = 1024;
  spread((n + cut - 1) / cut, cut * cost,
         [&](int64_t from, int64_t to, int) { f(from * cut, size_t(std::min(n, to * cut) - from * cut)); });
}

void Engine::add(float* x, const float* y, int64_t n) {
  spread_flat(n, 1, [&](int64_t at, size_t count) { kernels_.add(x + at, y + at, count); });
}

void Engine::scale(const float* x, float* y, int64_t n, float by) {
  spread_flat(n, 1, [&](int64_t at, size_t count) { kernels_.scale(x + at, y + at, count, by); });
}

void Engine::softcap(const float* x, float* y, int64_t n, float cap) {
  spread_flat(n, 4, [&](int64_t at, size_t count) { kernels_.softcap(x + at, y + at, count, cap); });
}

void Engine::gated(const float* gate_up, float* y, int t, int f, Activation activation) {
  spread(t, 4 * int64_t(f), [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++)
      kernels_.gated(gate_up + i * 2 * f, gate_up + i * 2 * f + f, y + i * f, f, activation);
  });
}

void Engine::dimmed(float* x, const float* gate, int t, int k) {
  spread(t, k, [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++) kernels_.dim(x + i * k, gate[i], size_t(k));
  });
}

void Engine::rope(float* x, int t, int heads, int dim, const int32_t* positions, const float* cos, const float* sin,
                  int limit, int half) {
  if (2 * half > dim) throw std::invalid_argument("rope: more rotated dimensions than the head has");
  check_positions(positions, t, limit, "rope");
  spread(t, int64_t(heads) * dim, [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++) {
      const int64_t angle = int64_t(positions[i]) * half;
      kernels_.rope(x + i * heads * dim, heads, dim, cos + angle, sin + angle, half);
    }
  });
}

// Queries for keys that were rotated before they became codes.
const float* Engine::rotated(const float* q, int64_t heads, int dim) {
  queries_.assign(q, q + heads * dim);
  const float scale = 1.0f / float(dim & -dim);
  spread(heads, 4 * int64_t(dim), [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++) kernels_.rotate(queries_.data() + i * dim, dim, scale);
  });
  return queries_.data();
}

void Engine::cut_queries(const AttentionJob& job, const float* q, float* y, const Ragged& ragged) {
  blocks_.clear();
  const int most = block_queries(job, ragged.query_starts[ragged.rows], pool_.threads());
  const int together = job.heads / job.groups, share = shared_heads(job);
  for (int row = 0; row < ragged.rows; row++)
    for (int at = 0; at < ragged.queries(row); at += most)
      for (int head = 0, heads; head < job.heads; head += heads) {
        heads = std::min(share, together - head % together);
        const int64_t token = ragged.query_starts[row] + at;
        const AttentionBlock block{q + token * job.heads * job.dim, y + token * job.heads * job.value_dim,
                                   std::min(most, ragged.queries(row) - at), ragged.starts[row] + at, head, heads};
        blocks_.push_back({block, ragged.page_ids + ragged.page_starts[row], spans_of(job, block), nullptr});
      }
}

// A long block of few queries is cut into its spans where threads would wait for it. Where they are many, a run of them
// is visited at a time: no bit depends on how long runs are.
void Engine::cut_spans(const AttentionJob& job) {
  apart_.clear(), run_ = longest_ = 0;
  const auto cost = [](const Block& b) { return int64_t(b.queries.queries) * (b.spans.end - b.spans.first); };
  int64_t all = 0;
  for (const Block& block : blocks_) all += cost(block);
  size_t state = 0;
  for (int i = 0; i < int(blocks_.size()); i++) {
    const Block& b = blocks_[size_t(i)];
    const int spans = b.spans.end - b.spans.first;
    const bool few = b.queries.queries <= kQueryTile && spans > 1;
    if (!few || pool_.threads() == 1 || cost(b) * kPartsPerThread * pool_.threads() <= all) continue;
    apart_.push_back(i);
    longest_ = std::max(longest_, spans);
    state = std::max(state, kernels_.attention_state(job, b.queries.queries));
  }
  if (apart_.empty()) return;
  const size_t fit = kMostStates / (apart_.size() * state * 4);
  run_ = int(std::clamp<size_t>(fit, 2, size_t(longest_) + 1)) - 1;  // one more is what they come to
  const size_t each = size_t(run_ + 1) * state, bytes = apart_.size() * each * 4;
  if (bytes > states_bytes_) states_ = allocate(bytes), states_bytes_ = bytes;
  for (size_t i = 0; i < apart_.size(); i++) blocks_[size_t(apart_[i])].states = (float*)states_.get() + i * each;
}

// What threads take in one go: with the first run also all blocks that stay whole.
void Engine::take_parts(int from) {
  parts_.clear();
  for (int i = 0; i < int(blocks_.size()); i++) {
    const Block& b = blocks_[size_t(i)];
    if (!b.states && from == 0) parts_.push_back({i, b.spans.first});
    const Spans some = b.states ? run_of(b, from) : Spans{0, 0};
    for (int span = some.first; span < some.end; span++) parts_.push_back({i, span});
  }
}

void Engine::attention(const Pages& kv, const float* q, float* y, int heads, const Ragged& ragged,
                       const Scores& scores) {
  check(kv, ragged);
  if (heads < 1 || heads % kv.groups)
    throw std::invalid_argument("attention: query heads must be a multiple of key heads");
  const AttentionJob common{kv.kind, kv.keys, kv.values, kv.key_scales, kv.value_scales, kv.groups, kv.page_size,
                            kv.dim, kv.value_dim, heads, scores.scale, scores.softcap, scores.window, scores.sinks,
                            nullptr, pool_.word(), kv.latent, kv.latent ? latent_share(heads / kv.groups) : 0, fast_};
  if (kv.kind == KV::int8 && !kv.latent) q = rotated(q, int64_t(ragged.query_starts[ragged.rows]) * heads, kv.dim);
  cut_queries(common, q, y, ragged);
  cut_spans(common);
  attend(common, 0);
  for (int from = run_; from < longest_; from += run_) attend(common, from);
}

// Visit whole blocks, and of the others a run of spans, `from` their first.
void Engine::attend(const AttentionJob& common, int from) {
  take_parts(from);
  const auto at_work = [&](const Block& block, int worker, const auto& f) {
    AttentionJob job = common;
    job.page_ids = block.page_ids;
    f(job, scratch(worker, kernels_.attention_scratch(job, block.queries.queries)));
  };
  pool_.run(int64_t(parts_.size()), [&](int64_t task, int worker) {
    const Part& part = parts_[size_t(task)];
    const Block& block = blocks_[size_t(part.block)];
    at_work(block, worker, [&](const AttentionJob& job, float* memory) {
      if (!block.states) return kernels_.attention(job, block.queries, memory);
      const size_t state = kernels_.attention_state(job, block.queries.queries);
      float* mine = block.states + size_t(1 + part.span - run_of(block, from).first) * state;
      kernels_.attention_span(job, block.queries, part.span, mine, memory);
    });
  });
  const int64_t cost = int64_t(shared_heads(common)) * run_ * common.value_dim / kJoinParts;
  spread(int64_t(apart_.size()) * kJoinParts, cost, [&](int64_t first, int64_t last, int worker) {
    for (int64_t i = first; i < last; i++) {
      const Block& block = blocks_[size_t(apart_[size_t(i / kJoinParts)])];
      const Spans found = run_of(block, from);
      if (found.first == found.end) continue;
      at_work(block, worker, [&](const AttentionJob& job, float* memory) {
        float* states = block.states + kernels_.attention_state(job, block.queries.queries);
        kernels_.attention_join(job, block.queries, found, states, block.states, int(i % kJoinParts), kJoinParts, memory);
      });
    }
  });
}

}  // namespace radixmill
