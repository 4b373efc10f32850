#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>

namespace radixmill {

namespace {

constexpr size_t kPiece = 1 << 17;  // words that a thread reads at a time
constexpr int kRounds = 1 << 13;    // of arithmetic at a time: tens of microseconds

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Tasks per second at the best of as many passes as `seconds` allow, and at least one.
template <class F>
double rate(Pool& pool, int64_t tasks, double seconds, const F& f) {
  double best = 0;
  for (const double until = now() + seconds;;) {
    const double began = now();
    pool.run(tasks, f);
    const double ended = now();
    best = std::max(best, double(tasks) / (ended - began));
    if (ended >= until) return best;
  }
}

}  // namespace

Peaks probe(const ProbeLoops& loops, Pool& pool, size_t bytes, double seconds) {
  std::atomic<uint64_t> seen{0};
  const int64_t pieces = int64_t(std::max<size_t>(1, bytes / (kPiece * sizeof(uint64_t))));
  const std::unique_ptr<uint64_t[]> words(new uint64_t[size_t(pieces) * kPiece]);
  // Pages that nobody wrote are all the same page.
  pool.run(pieces, [&](int64_t i, int) { std::fill_n(words.get() + size_t(i) * kPiece, kPiece, uint64_t(i)); });
  const double read = rate(pool, pieces, seconds / 3, [&](int64_t i, int) {
    seen += loops.read(words.get() + size_t(i) * kPiece, kPiece);
  });
  const int64_t tasks = 16 * pool.threads();
  const double floats =
      rate(pool, tasks, seconds / 3, [&](int64_t, int) { seen += uint64_t(loops.floats(kRounds)); });
  const double int8 = rate(pool, tasks, seconds / 3, [&](int64_t, int) { seen += uint64_t(loops.int8(kRounds)); });
  return {read * kPiece * sizeof(uint64_t), floats * kRounds * loops.float_ops, int8 * kRounds * loops.int8_ops};
}

}  // namespace radixmill
