// Products of many small matrices at once: what experts and heads are made of.
#pragma once
#include <vector>

#include "matrix.hpp"

namespace radixmill {

// Matrices of one K, one below the other.
struct Stack {
  std::vector<const Matrix*> matrices;
  std::vector<const int64_t*> orders;  // of the columns of x that each matrix sees, [K]; null: as they are

  int k() const { return matrices.at(0)->k(); }
  int n() const;
};

// Several of one size, each for rows of its own.
struct Stacks {
  std::vector<Stack> each;

  int k() const { return each.at(0).k(); }
  int n() const { return each.at(0).n(); }
  int64_t count() const { return int64_t(each.size()); }
  // Throws std::invalid_argument where there is none, or sizes differ.
  void check() const;
};

// See Experts in contract.py.
struct Mixture {
  Stacks gate_up, down;
  const float *gate_up_bias, *down_bias;  // [E, 2F] and [E, N], or null
  Activation activation;

  int inner() const { return down.k(); }
  void check() const;
};

// See Routing in contract.py.
struct Routing {
  int experts, top;
  bool sigmoid, renormalise;
  float scaling;
  int groups, top_groups;
  bool top2;  // a group is as good as the sum of its best two

  // Throws std::invalid_argument where there are fewer to choose among than are to be chosen.
  void check() const;
};

// Of one token: scores [E] (NaN allowed), bias [E] or null → numbers of the chosen, ascending, and their weights, [2k].
class Router {
 public:
  void choose(const Routing& routing, const float* scores, const float* bias, float* y);

 private:
  void close_groups(const Routing& routing);

  std::vector<float> wanted_, worth_;
  std::vector<int> best_;
};

// Floats for the f32 path, codes for the int8 path, pairs for the bf16 path.
struct Wanted {
  bool floats, codes, pairs;
};

// Rows of activations as products take them.
struct Prepared {
  const float* floats = nullptr;  // [rows, k]
  std::vector<float> made, scales, sums;
  std::vector<int8_t> codes;
  std::vector<int32_t> minus;
  std::vector<int16_t> halves;
  std::vector<uint16_t> pairs;

  void make_room(size_t rows, int k, Wanted wanted);
  // Row `from` of other → row `to`.
  void copy(size_t to, const Prepared& other, size_t from, int k, Wanted wanted);
  Codes row(size_t at, int k) {
    return Codes{codes.data(), scales.data(), sums.data(), minus.data(), halves.data()}.row(int64_t(at), k);
  }
  uint16_t* pairs_at(size_t at, int k) { return pairs.data() + at * size_t(k + k % 2); }
};

// Rows [row, row + t) of `rows`, or t rows of floats at x, times one matrix.
struct Product {
  const Matrix* matrix;
  Prepared* rows;
  size_t row;
  int t;
  const float* bias;  // [n] or null
  float* y;
  size_t stride;  // of y
  const float* x = nullptr;
  size_t apart = 0;  // floats between rows of x
};

// What one row of a grouped product is made of.
struct Fill {
  const float* from;
  const int64_t* order;
  int64_t like;  // the same row, made already; −1: none
};

// Values of T tokens and H heads, so many floats apart.
template <class T>
struct Strided {
  T* at;
  int64_t token, head;
};

}  // namespace radixmill
