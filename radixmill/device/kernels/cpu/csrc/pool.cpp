#include "pool.hpp"

#include <chrono>
#include <utility>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace radixmill {

namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kSpin = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spin until done(), reading the clock now and then; false when the time is up.
template <class F>
bool spin(F done) {
  const auto until = Clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; i++) {
      if (done()) return true;
      relax();
    }
  } while (Clock::now() < until);
  return done();
}

}  // namespace

Pool::Pool(int threads) {
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
  } catch (...) {
    close();
    throw;
  }
}

Pool::~Pool() { close(); }

void Pool::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

// Opening and closing a job are two steps of turn_. A worker first counts itself in, then looks whether the job it saw
// is still open; the caller first closes, then waits for the count to fall to zero. Both orders are sequentially
// consistent, so no worker touches job_ after the caller has left.
void Pool::start(Job job) {
  job_ = job;
  next_ = 0;
  turn_.fetch_add(1);
  if (sleepers_ > 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }
  take(0);
  turn_.fetch_add(1);
  while (!spin([this] { return inside_ == 0; })) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Where a task throws, those that nobody has taken yet are left out.
void Pool::take(int worker) {
  try {
    for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < job_.tasks;)
      job_.call(job_.context, task, worker), beat(job_.word);
  } catch (...) {
    next_ = job_.tasks;
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void Pool::work(int worker) {
  for (uint32_t seen = 0; wait(seen);) {
    inside_.fetch_add(1);
    const uint32_t turn = turn_;
    if (turn % 2 == 1) {
      take(worker);
      seen = turn;
    }
    inside_.fetch_sub(1);
  }
}

bool Pool::wait(uint32_t seen) {
  const auto open = [this, seen] {
    const uint32_t turn = turn_;
    return turn % 2 == 1 && turn != seen;
  };
  if (spin([&] { return open() || closing_; })) return !closing_;
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, [&] { return open() || closing_; });
  sleepers_.fetch_sub(1);
  return !closing_;
}

}  // namespace radixmill
