// The engine's grouped products: experts, and a matrix for each head.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "engine.hpp"

namespace radixmill {

namespace {

constexpr size_t kMostBetween = size_t(64) << 20;  // bytes between the products of one mixture, or of heads' rows
constexpr int kFewestTokens = 64;                  // … but so many go through at once: experts are read again for others
constexpr int kSumColumns = 512;                      // of a sum that one thread takes at a time

}  // namespace

void Engine::route(const float* logits, const float* bias, float* y, int t, const Routing& routing) {
  routing.check();
  spread(t, 16 * int64_t(routing.experts), [&](int64_t from, int64_t to, int worker) {
    Router router;
    float* scores = scratch(worker, size_t(routing.experts));
    for (int64_t i = from; i < to; i++) {
      kernels_.scores(logits + i * routing.experts, scores, routing.experts, routing.sigmoid);
      router.choose(routing, scores, bias, y + i * 2 * routing.top);
    }
  });
}

// Products of one stack with t rows, where(i) being the i-th of them; parts that see their columns in one order share what
// is made of it. `ready`: the first of t rows of tokens_ that will do where there is no order; −1: none.
template <class F>
void Engine::plan(const Stack& w, int t, int64_t ready, const float* bias, float* y, size_t stride, const F& where) {
  size_t at = fills_.size();
  for (size_t part = 0; part < w.matrices.size(); part++) {
    const int64_t* order = w.orders[part];
    const bool direct = !order && ready >= 0;
    if (!direct && (part == 0 || order != w.orders[part - 1])) {
      at = fills_.size();
      for (int i = 0; i < t; i++) {
        const auto [from, like] = where(i);
        fills_.push_back({from, order, order ? -1 : like});
      }
    }
    products_.push_back({w.matrices[part], direct ? &tokens_ : &slots_, direct ? size_t(ready) : at, t, bias, y, stride});
    y += w.matrices[part]->n();
    if (bias) bias += w.matrices[part]->n();
  }
}

// What the products planned want of their rows.
Wanted Engine::all_wanted() const {
  Wanted all{false, false, false};
  for (const Product& product : products_) {
    if (product.x) continue;
    const Wanted one = wanted(*product.matrix);
    all = {all.floats || one.floats, all.codes || one.codes, all.pairs || one.pairs};
  }
  return all;
}

// Make the rows that were planned, then the products.
void Engine::multiply_planned(const Source& source, int k) {
  const Wanted all = all_wanted();
  slots_.make_room(fills_.size(), k, all);
  spread(int64_t(fills_.size()), int64_t(k) * (source.kind == Source::gated ? 5 : 2),
         [&](int64_t from, int64_t to, int worker) {
           for (size_t i = size_t(from); i < size_t(to); i++) {
             const Fill& one = fills_[i];
             if (one.like >= 0)
               slots_.copy(i, tokens_, size_t(one.like), k, all);
             else
               fill(source, one.from, k, one.order, slots_, i, all, worker);
           }
         });
  multiply(false);
}

// Pairs of a token and an expert that it goes through, those of one expert side by side; where each token finds its own.
void Engine::group(const float* routes, int t, int top, int64_t experts) {
  pairs_.resize(size_t(t) * top), places_.resize(pairs_.size());
  starts_.assign(size_t(experts) + 1, 0);
  const auto chosen = [&](int token, int place) { return size_t(routes[size_t(token) * 2 * top + place]); };
  for (int i = 0; i < t; i++)
    for (int place = 0; place < top; place++) {
      const float number = routes[size_t(i) * 2 * top + place];
      if (!(number >= 0 && number < float(experts))) throw std::out_of_range("experts: no such expert");
      starts_[chosen(i, place) + 1]++;
    }
  for (size_t e = 0; e < size_t(experts); e++) starts_[e + 1] += starts_[e];
  next_.assign(starts_.begin(), starts_.end() - 1);
  for (int i = 0; i < t; i++)
    for (int place = 0; place < top; place++) {
      const int64_t at = next_[chosen(i, place)]++;
      pairs_[size_t(at)] = i;
      places_[size_t(i) * top + place] = at;
    }
}

void Engine::some_experts(const Mixture& mixture, const float* x, const float* routes, int t, int top, float* y) {
  const int k = mixture.gate_up.k(), both = mixture.gate_up.n(), f = mixture.inner(), n = mixture.down.n();
  group(routes, t, top, mixture.gate_up.count());
  const size_t bytes = pairs_.size() * size_t(std::max(both, n)) * 4;
  if (bytes > between_bytes_) between_ = allocate(bytes), between_bytes_ = bytes;
  // What came up is in slots_, gated, before anything goes down.
  float *inner = (float*)between_.get(), *out = inner;
  // f(expert, first pair, how many) for every expert that has any.
  const auto each = [&](const auto& go) {
    for (size_t e = 0; e < size_t(mixture.gate_up.count()); e++)
      if (starts_[e] < starts_[e + 1]) go(e, size_t(starts_[e]), int(starts_[e + 1] - starts_[e]));
  };

  products_.clear(), fills_.clear();
  each([&](size_t e, size_t first, int count) {
    const int64_t token = pairs_[first];
    bool neighbours = true;
    for (int i = 0; i < count; i++) neighbours &= pairs_[first + size_t(i)] == token + i;
    plan(mixture.gate_up.each[e], count, neighbours ? token : -1,
         mixture.gate_up_bias ? mixture.gate_up_bias + e * both : nullptr, inner + first * both, size_t(both),
         [&](int i) { return std::pair(x + pairs_[first + size_t(i)] * k, pairs_[first + size_t(i)]); });
  });
  const bool in_order = std::all_of(fills_.begin(), fills_.end(), [](const Fill& one) { return one.order != nullptr; });
  const bool ready = std::any_of(products_.begin(), products_.end(), [&](const Product& p) { return p.rows == &tokens_; });
  if (ready || !in_order) prepare({}, x, t, k, nullptr, all_wanted(), tokens_);
  multiply_planned({}, k);

  products_.clear(), fills_.clear();
  each([&](size_t e, size_t first, int count) {
    plan(mixture.down.each[e], count, -1, mixture.down_bias ? mixture.down_bias + e * n : nullptr, out + first * n,
         size_t(n), [&](int i) { return std::pair(inner + (first + size_t(i)) * both, int64_t(-1)); });
  });
  multiply_planned({Source::gated, nullptr, 0, mixture.activation}, f);

  const int64_t blocks = (n + kSumColumns - 1) / kSumColumns;
  spread(t * blocks, int64_t(top) * std::min(n, kSumColumns), [&](int64_t from, int64_t to, int) {
    for (int64_t i = from; i < to; i++) {
      const int64_t token = i / blocks, column = i % blocks * kSumColumns;
      const size_t columns = size_t(std::min<int64_t>(kSumColumns, n - column));
      float* sum = y + token * n + column;
      memset(sum, 0, columns * 4);
      for (int place = 0; place < top; place++)
        kernels_.add_scaled(sum, out + places_[size_t(token * top + place)] * n + column, columns,
                            routes[token * 2 * top + top + place]);
    }
  });
}

void Engine::experts(const Mixture& mixture, const float* x, const float* routes, int t, int top, float* y) {
  const int k = mixture.gate_up.k(), n = mixture.down.n();
  const size_t row = size_t(top) * size_t(std::max(mixture.gate_up.n(), n)) * 4;
  const int most = std::max(kFewestTokens, int(kMostBetween / row));
  for (int from = 0; from < t; from += most)
    some_experts(mixture, x + int64_t(from) * k, routes + int64_t(from) * 2 * top, std::min(most, t - from), top,
                 y + int64_t(from) * n);
}

// Whether products read floats as they lie.
bool Engine::as_it_lies(const Stack& w) const {
  const auto other = [](const int64_t* order) { return order != nullptr; };
  return std::none_of(w.orders.begin(), w.orders.end(), other) &&
         std::all_of(w.matrices.begin(), w.matrices.end(), [&](const Matrix* m) { return wanted(*m).floats; });
}

void Engine::some_heads(const Stacks& w, Strided<const float> x, int t, Strided<float> y) {
  products_.clear(), fills_.clear();
  for (int64_t h = 0; h < w.count(); h++) {
    const Stack& stack = w.each[size_t(h)];
    const float* rows = x.at + h * x.head;  // those of this head, x.token apart
    float* out = y.at + h * y.head;
    if (as_it_lies(stack)) {
      for (const Matrix* matrix : stack.matrices) {
        products_.push_back({matrix, nullptr, 0, t, nullptr, out, size_t(y.token), rows, size_t(x.token)});
        out += matrix->n();
      }
      continue;
    }
    plan(stack, t, -1, nullptr, out, size_t(y.token), [&](int i) { return std::pair(rows + i * x.token, int64_t(-1)); });
  }
  multiply_planned({}, w.k());
}

void Engine::heads(const Stacks& w, Strided<const float> x, int t, Strided<float> y) {
  const int most = std::max(kFewestTokens, int(kMostBetween / (size_t(w.count()) * size_t(w.k()) * 4)));
  for (int from = 0; from < t; from += most)
    some_heads(w, {x.at + from * x.token, x.token, x.head}, std::min(most, t - from),
               {y.at + from * y.token, y.token, y.head});
}

}  // namespace radixmill
