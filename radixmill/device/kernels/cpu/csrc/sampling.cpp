#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace radixmill {

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kHighest = std::numeric_limits<float>::max();
constexpr double kFaintest = -32.0;  // exp of it has no mass
constexpr int kBuckets = 1024;
// Of so many tokens at most one allowed: they are drawn from as a row of their own. Later where each needs an exp.
constexpr int kSparse = 64, kSparseDrawn = 8;

// An integer in the order of (−logit, id).
int64_t key_of(float logit, int32_t id) {
  const float turned = 0.0f - logit;  // no −0
  int32_t bits;
  memcpy(&bits, &turned, sizeof bits);
  return int64_t(bits < 0 ? bits ^ 0x7FFFFFFF : bits) * (int64_t(1) << 32) | id;
}

int32_t id_of(int64_t key) { return int32_t(key & 0x7FFFFFFF); }

int blocks(int n) { return (n + kSumBlock - 1) / kSumBlock; }

template <class T>
T* room(std::vector<T>& items, size_t count) {
  if (items.size() < count) items.resize(count);
  return items.data();
}

// x, a product of whole numbers and fractions below 2⁶³, upwards.
int64_t whole_up(double x) { return int64_t(std::ceil(x)); }

float cleaned_one(float x) { return x != x ? kNothing : std::min(x, kHighest); }

float rounded(double x) { return float(std::min(x, double(kHighest))); }

float penalised(float logit, int64_t count, const Shaping& by) {
  double x = logit > 0 ? double(logit) / by.repetition : double(logit) * by.repetition;
  x -= by.frequency * double(count);
  x -= count > 0 ? by.presence : 0.0;
  return rounded(x);
}

bool allows(const uint32_t* mask, int i) { return !mask || (mask[i / 32] >> (i % 32) & 1); }

// Of the mask's tokens the first that is not banned; the first of all if there is none; 0 if that is none either.
int64_t lowest_allowed(int n, const Shaping& shaping) {
  int64_t lowest = -1;
  for (int i = 0; i < n; i++) {
    if (!allows(shaping.mask, i)) continue;
    const int64_t* end = shaping.banned.data + shaping.banned.count;
    if (std::find(shaping.banned.data, end, i) == end) return i;
    if (lowest < 0) lowest = i;
  }
  return std::max(lowest, int64_t(0));
}

}  // namespace

const float* RowSampler::cleaned(const float* row, int n) {
  float* lanes = room(lanes_, size_t(blocks(n)) * kMaxima);
  scan_ = kernels_.scan(row, n, lanes);
  if (!scan_.dirty) return row;
  float* clean = room(clean_, size_t(n));
  for (int i = 0; i < n; i++) clean[i] = cleaned_one(row[i]);
  scan_ = kernels_.scan(clean, n, lanes);
  return clean;
}

// The lowest allowed token (mask null: of all) whose clean logit is the scan's peak; −1 where nothing is above −∞.
int64_t RowSampler::first_of_peak(const float* row, int n, const uint32_t* mask) const {
  if (scan_.peak == kNothing) return -1;
  const auto lane = std::find(lanes_.begin(), lanes_.begin() + blocks(n) * kMaxima, scan_.peak);
  for (int i = int(lane - lanes_.begin()) / kMaxima * kSumBlock; i < n; i++)
    if (allows(mask, i) && cleaned_one(row[i]) == scan_.peak) return i;
  return -1;
}

int64_t RowSampler::draw(const float* row, int n, const Rule& rule, const Shaping& shaping) {
  if (shaping.edits()) row = edited(row, n, shaping);
  const int64_t token =
      shaping.mask ? draw_masked(row, n, rule, shaping.mask) : draw_clean(cleaned(row, n), n, rule);
  return token < 0 ? lowest_allowed(n, shaping) : token;
}

// A copy after penalties, bias and bans. Only what they change is clean.
const float* RowSampler::edited(const float* row, int n, const Shaping& shaping) {
  float* out = room(edited_, size_t(n));
  std::copy(row, row + n, out);
  for (size_t i = 0; i < shaping.seen.count; i++) {
    float& logit = out[shaping.seen.data[i]];
    logit = penalised(cleaned_one(logit), shaping.counts[i], shaping);
  }
  for (size_t i = 0; i < shaping.biased.count; i++) {
    float& logit = out[shaping.biased.data[i]];
    logit = rounded(double(cleaned_one(logit)) + shaping.bias[i]);
  }
  for (size_t i = 0; i < shaping.banned.count; i++) out[shaping.banned.data[i]] = kNothing;
  return out;
}

// Neither path shows in the token: what is not allowed has no mass in the one and is not there in the other, and both
// keep the order of ids.
int64_t RowSampler::draw_masked(const float* row, int n, const Rule& rule, const uint32_t* mask) {
  const bool greedy = rule.temperature == 0.0;
  const int count = kernels_.count_allowed(mask, n);
  if (count <= n / (greedy ? kSparse : kSparseDrawn)) return draw_few(row, n, rule, mask, count);
  float* masked = greedy ? nullptr : room(masked_, size_t(n));
  scan_ = {kernels_.scan_masked(row, mask, n, masked, room(lanes_, size_t(blocks(n)) * kMaxima)), false};
  return greedy ? first_of_peak(row, n, mask) : draw_clean(masked, n, rule);
}

// From the `count` allowed tokens as a row of their own.
int64_t RowSampler::draw_few(const float* row, int n, const Rule& rule, const uint32_t* mask, int count) {
  int32_t* ids = room(allowed_, size_t(count));
  float* logits = room(masked_, size_t(count));
  kernels_.gather_allowed(row, mask, n, ids, logits);
  const int64_t at = draw_clean(cleaned(logits, count), count, rule);
  return at < 0 ? at : ids[at];
}

// From a row that has passed `cleaned`, whose scan and lanes are at hand; −1 where nothing is above −∞.
int64_t RowSampler::draw_clean(const float* row, int n, const Rule& rule) {
  if (rule.temperature == 0.0) return first_of_peak(row, n, nullptr);
  if (scan_.peak == kNothing) return -1;
  const bool some = rule.top_k > 0.0 && rule.top_k < n;
  const Tokens tokens = some ? first_tokens(row, n, int(rule.top_k)) : near_tokens(row, n, rule.temperature);
  weigh(tokens, rule.temperature);
  cut_tail(tokens, rule);
  const int at = invert(tokens.count, rule.u);
  return tokens.ids ? tokens.ids[at] : at;
}

// Into keys_ the k first of the row, in no order. The k-th largest of the lanes' maxima bounds the k-th largest logit
// from below, so that few need a key.
void RowSampler::first_keys(const float* row, int n, int k) {
  float least = kNothing;
  const int lanes = blocks(n) * kMaxima;
  if (k <= lanes) {
    bounds_.assign(lanes_.begin(), lanes_.begin() + lanes);
    std::nth_element(bounds_.begin(), bounds_.begin() + (k - 1), bounds_.end(), std::greater<float>());
    least = bounds_[size_t(k - 1)];
  }
  int32_t* ids = room(ids_, size_t(n));
  float* logits = room(logits_, size_t(n));
  const int found = kernels_.gather_from(row, n, least, lanes_.data(), ids, logits);
  keys_.resize(size_t(found));
  for (int i = 0; i < found; i++) keys_[size_t(i)] = key_of(logits[i], ids[i]);
  if (found > k) std::nth_element(keys_.begin(), keys_.begin() + (k - 1), keys_.end());
  keys_.resize(size_t(k));
}

Tokens RowSampler::first_tokens(const float* row, int n, int k) {
  first_keys(row, n, k);
  for (int i = 0; i < k; i++) ids_[size_t(i)] = id_of(keys_[size_t(i)]);
  std::sort(ids_.begin(), ids_.begin() + k);
  for (int i = 0; i < k; i++) logits_[size_t(i)] = row[ids_[size_t(i)]];
  return {logits_.data(), ids_.data(), k};
}

// Those that have any mass, where they are few; else all.
Tokens RowSampler::near_tokens(const float* row, int n, double temperature) {
  const float least = float(std::max(double(scan_.peak) + kFaintest * temperature, -double(kHighest)));
  if (2 * kernels_.count_from(row, n, least) >= n) return {row, nullptr, n};
  int32_t* ids = room(ids_, size_t(n));
  float* logits = room(logits_, size_t(n));
  return {logits, ids, kernels_.gather_from(row, n, least, lanes_.data(), ids, logits)};
}

void RowSampler::weigh(const Tokens& tokens, double temperature) {
  int64_t* masses = room(masses_, size_t(tokens.count));
  int64_t* sums = room(sums_, size_t(blocks(tokens.count)));
  kernels_.masses(tokens.logits, tokens.count, scan_.peak, temperature, table_, masses, sums);
}

int64_t RowSampler::total(int count) const {
  int64_t sum = 0;
  for (int block = 0; block < blocks(count); block++) sum += sums_[size_t(block)];
  return sum;
}

void RowSampler::cut_tail(const Tokens& tokens, const Rule& rule) {
  Edge edge{kNothing, std::numeric_limits<int32_t>::max()};
  const int64_t all = total(tokens.count);
  const int64_t goal = rule.top_p < 1.0 ? whole_up(rule.top_p * double(all)) : all;
  if (rule.top_p < 1.0 && goal <= all) edge = head_edge(tokens, rule.temperature, goal);
  const int64_t least = whole_up(rule.min_p * double(int64_t(1) << kMassBits));
  if (edge.logit != kNothing || least > 0) kernels_.keep(tokens, edge, least, masses_.data(), sums_.data());
}

// The last token of the shortest head of the (−logit, id) order with a mass of `goal`. The bucket in which it stands is
// found by the sums of all buckets, which follow the order; then halves of that bucket are put apart.
Edge RowSampler::head_edge(const Tokens& tokens, double temperature, int64_t goal) {
  const double scale = std::min(kBuckets / (-kFaintest * temperature), 1e30);
  int32_t* buckets = room(buckets_, size_t(tokens.count));
  kernels_.buckets(tokens.logits, tokens.count, scan_.peak, float(scale), kBuckets - 1, buckets);
  histogram_.assign(kBuckets, 0);
  for (int i = 0; i < tokens.count; i++) histogram_[size_t(buckets[i])] += masses_[size_t(i)];
  int bucket = 0;
  for (; goal > histogram_[size_t(bucket)]; bucket++) goal -= histogram_[size_t(bucket)];
  keys_.clear();  // of places in `tokens`: in the order of their ids
  for (int i = 0; i < tokens.count; i++)
    if (buckets[i] == bucket) keys_.push_back(key_of(tokens.logits[i], i));
  auto from = keys_.begin(), to = keys_.end();
  while (to - from > 1) {
    const auto middle = from + (to - from) / 2;
    std::nth_element(from, middle, to);
    int64_t mass = 0;
    for (auto key = from; key != middle; key++) mass += masses_[size_t(id_of(*key))];
    if (mass >= goal) {
      to = middle;
    } else {
      goal -= mass;
      from = middle;
    }
  }
  const int last = id_of(*from);
  return {tokens.logits[last], tokens.ids ? tokens.ids[last] : last};
}

// The first token whose running sum exceeds u of the whole; never one without mass.
int RowSampler::invert(int count, double u) const {
  const int64_t all = total(count);
  int64_t goal = std::min(int64_t(u * double(all)), all - 1);
  int block = 0;
  for (; goal >= sums_[size_t(block)]; block++) goal -= sums_[size_t(block)];
  int at = block * kSumBlock;
  for (; goal >= masses_[size_t(at)]; at++) goal -= masses_[size_t(at)];
  return at;
}

int64_t RowSampler::rank(const float* row, int n, int k, float& peak, int64_t* ids, float* logits) {
  row = cleaned(row, n);
  peak = scan_.peak;
  if (k > 0) first_keys(row, n, k);
  std::sort(keys_.begin(), keys_.begin() + k);
  for (int i = 0; i < k; i++) {
    ids[i] = id_of(keys_[size_t(i)]);
    logits[i] = row[ids[i]];
  }
  if (peak == kNothing) return 0;
  weigh({row, nullptr, n}, 1.0);
  return total(n);
}

}  // namespace radixmill
