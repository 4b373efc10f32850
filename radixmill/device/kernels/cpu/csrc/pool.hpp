// A few threads that take tasks from one counter. What they compute may not depend on who takes which task.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "beat.hpp"

namespace radixmill {

// One caller at a time. Between jobs a worker spins for up to 50 µs, then sleeps until the next one; the caller never
// waits for a sleeper: a job is over when every task is done, whoever did it.
class Pool {
 public:
  explicit Pool(int threads);  // the caller is one of them
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  // The word to count up with every task, see beat.hpp; null: none. Not during a job.
  void watch(uint64_t* word) { word_ = word; }
  uint64_t* word() const { return word_; }

  // f(task, worker) for every task in [0, tasks); worker is in [0, threads()), 0 the caller. Throws the first of what f
  // throws, once no thread is in f any more; some tasks are then not done.
  template <class F>
  void run(int64_t tasks, const F& f) {
    if (tasks <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < tasks; i++) f(i, 0), beat(word_);
      return;
    }
    start({[](const void* context, int64_t task, int worker) { (*static_cast<const F*>(context))(task, worker); }, &f,
           tasks, word_});
  }

 private:
  struct Job {
    void (*call)(const void*, int64_t, int);
    const void* context;
    int64_t tasks;
    uint64_t* word;
  };

  void start(Job job);
  void close();
  void take(int worker);
  void work(int worker);
  bool wait(uint32_t seen);  // false: the pool is closing

  uint64_t* word_ = nullptr;
  Job job_{};
  alignas(64) std::atomic<uint32_t> turn_{0};  // odd while a job is open
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> inside_{0};  // workers that may touch job_
  std::atomic<int> sleepers_{0};
  std::atomic<bool> closing_{false};
  std::mutex mutex_;
  std::exception_ptr error_;  // of the job
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace radixmill
