// Rows of logits → tokens: what device/sampling/choose.py says in NumPy, to the bit.
//
// A token's mass is a whole number, its weight in units of 2⁻⁴⁴ of the most likely token's: sums of masses are exact,
// so they may be taken in any order, by vectors of any width. Weights come from an exp of IEEE-exact operations.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace radixmill {

constexpr int kMassBits = 44;
constexpr int kSumBlock = 1024;      // masses that share one sum
constexpr int kMaxima = 16;          // maxima kept of each block of logits: of every 16th one
constexpr int kMostTokens = 1 << 19;  // so many masses cannot overflow an int64

// exp(x) = 2ᵉ · 2^(j/1024) · (1 + r + r²/2 + r³/6), see device/sampling/exp.py, which the numbers come from.
struct ExpTable {
  const double* steps;    // [1024]: 2^(j/1024)
  double width, inverse;  // ln2/1024, 1024/ln2
};

// How to draw from one row; the most likely token is taken at temperature 0.
struct Rule {
  double temperature;
  double top_k;  // 0: all
  double top_p;
  double min_p;
  double u;  // in [0, 1)
};
constexpr size_t kRuleFields = sizeof(Rule) / sizeof(double);

// Distinct tokens of a row.
struct Ids {
  const int64_t* data = nullptr;
  size_t count = 0;
};

// What is done to a row before it is drawn from, in this order. Pointers are null where there is nothing to do.
struct Shaping {
  Ids seen;  // the history's
  const int64_t* counts = nullptr;  // [seen.count] how often each was put out
  double repetition = 1, frequency = 0, presence = 0;
  Ids biased;
  const double* bias = nullptr;    // [biased.count]
  const uint32_t* mask = nullptr;  // [⌈n/32⌉], bit i of word w: whether token 32·w + i is allowed
  Ids banned;

  bool edits() const { return seen.count + biased.count + banned.count > 0; }
};

// The last token kept of an order by (−logit, id).
struct Edge {
  float logit;
  int32_t id;
};

struct Scan {
  float peak;  // of what is not NaN
  bool dirty;  // NaN or +∞ somewhere
};

// Tokens of a row, ascending: all of it (ids null) or some.
struct Tokens {
  const float* logits;
  const int32_t* ids;
  int count;
};

// One instruction set's loops over raw pointers. All of them give the same bits.
struct RowKernels {
  const char* isa;
  // lanes [⌈n/1024⌉ · 16]: maxima, −∞ where a lane has nothing.
  Scan (*scan)(const float* row, int n, float* lanes);
  // The row cleaned, and −∞ where the mask has no bit, into out [n] unless that is null; lanes as of scan. The peak.
  float (*scan_masked)(const float* row, const uint32_t* mask, int n, float* out, float* lanes);
  int (*count_allowed)(const uint32_t* mask, int n);
  // ids and logits of the allowed tokens.
  void (*gather_allowed)(const float* row, const uint32_t* mask, int n, int32_t* ids, float* logits);
  int (*count_from)(const float* row, int n, float least);
  // ids [n] and logits [n] of what is at least `least`; how many. Blocks whose lanes are all below are passed over.
  int (*gather_from)(const float* row, int n, float least, const float* lanes, int32_t* ids, float* logits);
  // masses [n] of exp((logit − peak) / temperature), and the sum of each block.
  void (*masses)(const float* logits, int n, double peak, double temperature, const ExpTable& table, int64_t* masses,
                 int64_t* sums);
  // Masses behind the edge, and those below `least`, become 0; sums follow.
  void (*keep)(const Tokens& tokens, Edge edge, int64_t least, int64_t* masses, int64_t* sums);
  // buckets [n]: min(last, (peak − logit) · scale), whole.
  void (*buckets)(const float* logits, int n, float peak, float scale, int last, int32_t* buckets);
};

const RowKernels& portable_rows();
#ifdef RADIXMILL_AVX2
const RowKernels& avx2_rows();
#endif
#ifdef RADIXMILL_AVX512
const RowKernels& avx512_rows();
#endif

// One thread's work space, which grows to what a row needs; and the draw itself.
class RowSampler {
 public:
  RowSampler(const RowKernels& kernels, const ExpTable& table) : kernels_(kernels), table_(table) {}

  // The drawn token; the lowest allowed one where nothing is above −∞, 0 where nothing is allowed. NaN counts as −∞, +∞
  // as the largest float.
  int64_t draw(const float* row, int n, const Rule& rule, const Shaping& shaping);
  // The sum of all masses at temperature 1 (0: nothing is above −∞), the peak, and the k first by (−logit, id), k ≤ n.
  int64_t rank(const float* row, int n, int k, float& peak, int64_t* ids, float* logits);

 private:
  const float* cleaned(const float* row, int n);
  const float* edited(const float* row, int n, const Shaping& shaping);
  int64_t draw_masked(const float* row, int n, const Rule& rule, const uint32_t* mask);
  int64_t draw_few(const float* row, int n, const Rule& rule, const uint32_t* mask, int count);
  int64_t draw_clean(const float* row, int n, const Rule& rule);
  int64_t first_of_peak(const float* row, int n, const uint32_t* mask) const;
  void first_keys(const float* row, int n, int k);
  Tokens first_tokens(const float* row, int n, int k);
  Tokens near_tokens(const float* row, int n, double temperature);
  void weigh(const Tokens& tokens, double temperature);
  void cut_tail(const Tokens& tokens, const Rule& rule);
  Edge head_edge(const Tokens& tokens, double temperature, int64_t goal);
  int invert(int count, double u) const;
  int64_t total(int count) const;

  const RowKernels& kernels_;
  ExpTable table_;
  Scan scan_{};
  std::vector<float> clean_, edited_, masked_, lanes_, bounds_, logits_;
  std::vector<int32_t> allowed_, ids_, buckets_;
  std::vector<int64_t> masses_, sums_, keys_, histogram_;
};

}  // namespace radixmill
