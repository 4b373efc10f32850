#include "grouped.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace radixmill {

namespace {

void expect(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

template <class T>
void at_least(std::vector<T>& values, size_t count) {
  if (values.size() < count) values.resize(count);
}

// The places of the largest come first; of equals the first, NaN last.
void best_first(const std::vector<float>& scores, int count, std::vector<int>& places) {
  places.resize(scores.size());
  std::iota(places.begin(), places.end(), 0);
  std::partial_sort(places.begin(), places.begin() + count, places.end(), [&](int a, int b) {
    const float x = scores[size_t(a)], y = scores[size_t(b)];
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x == y ? a < b : x > y;
  });
}

}  // namespace

int Stack::n() const {
  int n = 0;
  for (const Matrix* matrix : matrices) n += matrix->n();
  return n;
}

void Stacks::check() const {
  expect(!each.empty(), "no matrices");
  for (const Stack& stack : each) {
    expect(!stack.matrices.empty() && stack.n() == n(), "matrices of different sizes");
    for (const Matrix* matrix : stack.matrices) expect(matrix->k() == k(), "matrices of different sizes");
  }
}

void Mixture::check() const {
  gate_up.check(), down.check();
  expect(gate_up.count() == down.count(), "not as many matrices down as up");
  expect(gate_up.n() == 2 * down.k(), "what goes down is not what came up");
}

void Routing::check() const {
  expect(top > 0 && top <= experts, "more experts to be chosen than there are");
  expect(experts < 1 << 24, "more experts than a float can number");
  expect(groups > 0 && experts % groups == 0 && top_groups > 0 && top_groups <= groups, "groups that do not fit");
  expect(top <= top_groups * (experts / groups), "more experts to be chosen than their groups have");
  expect(groups == 1 || !top2 || experts / groups > 1, "groups of one have no best two");
}

// −∞ outside the best groups.
void Router::close_groups(const Routing& routing) {
  const size_t size = size_t(routing.experts / routing.groups);
  worth_.resize(size_t(routing.groups));
  for (size_t g = 0; g < worth_.size(); g++) {
    float first = -INFINITY, second = -INFINITY;
    bool nan = false;
    for (size_t i = g * size; i < (g + 1) * size; i++) {
      const float x = wanted_[i];
      nan |= std::isnan(x);
      if (x > first)
        second = first, first = x;
      else if (x > second)
        second = x;
    }
    worth_[g] = nan ? NAN : routing.top2 ? first + second : first;
  }
  best_first(worth_, routing.top_groups, best_);
  for (size_t i = size_t(routing.top_groups); i < best_.size(); i++)
    std::fill_n(wanted_.begin() + std::ptrdiff_t(size_t(best_[i]) * size), size, -INFINITY);
}

void Router::choose(const Routing& routing, const float* scores, const float* bias, float* y) {
  const size_t top = size_t(routing.top);
  wanted_.assign(scores, scores + routing.experts);
  for (int e = 0; bias && e < routing.experts; e++) wanted_[size_t(e)] += bias[e];
  if (routing.groups > 1) close_groups(routing);
  best_first(wanted_, routing.top, best_);
  std::sort(best_.begin(), best_.begin() + routing.top);
  float total = 0;
  for (size_t i = 0; i < top; i++) {
    y[i] = float(best_[i]);
    y[top + i] = scores[best_[i]];
    total += y[top + i];
  }
  for (size_t i = top; i < 2 * top; i++) {
    if (routing.renormalise) y[i] /= total + 1e-20f;
    y[i] *= routing.scaling;
  }
}

void Prepared::make_room(size_t rows, int k, Wanted wanted) {
  const size_t values = rows * size_t(k), groups = wanted.codes ? values / kGroup : 0;
  if (wanted.floats) at_least(made, values);
  if (wanted.codes) at_least(codes, values);
  if (wanted.pairs) at_least(pairs, rows * size_t(k + k % 2));
  at_least(scales, groups), at_least(sums, groups), at_least(minus, groups), at_least(halves, 2 * groups);
  floats = made.data();
}

void Prepared::copy(size_t to, const Prepared& other, size_t from, int k, Wanted wanted) {
  const size_t values = size_t(k), groups = values / kGroup, even = size_t(k + k % 2);
  if (wanted.floats) memcpy(made.data() + to * values, other.floats + from * values, values * 4);
  if (wanted.pairs) memcpy(pairs.data() + to * even, other.pairs.data() + from * even, even * 2);
  if (!wanted.codes) return;
  memcpy(codes.data() + to * values, other.codes.data() + from * values, values);
  memcpy(scales.data() + to * groups, other.scales.data() + from * groups, groups * 4);
  memcpy(sums.data() + to * groups, other.sums.data() + from * groups, groups * 4);
  memcpy(minus.data() + to * groups, other.minus.data() + from * groups, groups * 4);
  memcpy(halves.data() + to * 2 * groups, other.halves.data() + from * 2 * groups, groups * 4);
}

}  // namespace radixmill
