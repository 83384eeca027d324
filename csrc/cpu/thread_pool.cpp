// thread_pool.cpp: the team and its barrier: spin for a moment, then sleep.
#include "cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "check.h"

namespace picert::cpu {
namespace {

constexpr int kMaxThreads = 1024;
// One pause is 40 to 140 cycles on current x86, a thousand 17 to 60 us. A phase of a step ends on all workers
// within tens of microseconds of each other, so a worker that waits longer than kSyncSpins has met preempted
// company and had better sleep.
constexpr int kSyncSpins = 1000;
// Between two steps the caller schedules and samples; a worker that is still awake then saves a wake-up (tens
// of microseconds, on a virtual machine more).
constexpr int kIdleSpins = 6000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

int available_cores() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

using Thread = std::thread::native_handle_type;

// Throws std::invalid_argument where the system does not let the thread run there, or cannot say so.
void bind(Thread thread, int cpu) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  const bool is_valid = cpu >= 0 && cpu < CPU_SETSIZE;
  if (is_valid) CPU_SET(static_cast<size_t>(cpu), &set);
  PICERT_CHECK(is_valid && pthread_setaffinity_np(thread, sizeof set, &set) == 0, "processor ", cpu,
               " cannot be used by this process: bind threads to others");
#else
  (void)thread;
  fail("threads cannot be bound to processor ", cpu, " on this system");
#endif
}

// The calling thread on one processor, until the end of the scope; on none in particular if `cpus` is empty.
class CallerBinding {
 public:
  explicit CallerBinding(const std::vector<int>& cpus) {
#ifdef __linux__
    if (cpus.empty()) return;
    is_bound_ = pthread_getaffinity_np(pthread_self(), sizeof before_, &before_) == 0;
    bind(pthread_self(), cpus[0]);
#else
    (void)cpus;  // the constructor of the pool has refused them
#endif
  }
  ~CallerBinding() {
#ifdef __linux__
    if (is_bound_) pthread_setaffinity_np(pthread_self(), sizeof before_, &before_);
#endif
  }
  CallerBinding(const CallerBinding&) = delete;
  CallerBinding& operator=(const CallerBinding&) = delete;

 private:
#ifdef __linux__
  bool is_bound_ = false;
  cpu_set_t before_;
#endif
};

// Thrown out of `sync` on the other workers when one has left the run with an exception.
struct TeamBroken : std::exception {
  const char* what() const noexcept override { return "another worker of the team failed"; }
};

}  // namespace

// A barrier for a fixed number of threads that can be used again at once: the last to arrive opens the next
// generation. Sleepers and opener cannot miss each other: a sleeper counts itself before it looks at the
// generation, an opener changes the generation before it looks at the count, and both use sequentially
// consistent accesses.
class Barrier {
 public:
  Barrier(int size, bool may_spin) : size_(size), may_spin_(may_spin) {}

  void arrive_and_wait(int spins) {
    const uint64_t before = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) return open();
    if (may_spin_) {
      for (int i = 0; i < spins; i++) {
        if (has_opened(before)) return;
        pause();
      }
    }
    sleep_until_opened(before);
  }

  void sync() {
    if (size_ > 1) arrive_and_wait(kSyncSpins);
    if (broken_.load(std::memory_order_acquire)) throw TeamBroken();
  }

  // Let every present and future `sync` throw, until `mend`.
  void break_team() {
    broken_.store(true, std::memory_order_release);
    open();
  }

  // Make ready for a new run. No thread may be inside the barrier.
  void mend() {
    arrived_.store(0, std::memory_order_relaxed);
    broken_.store(false, std::memory_order_relaxed);
  }

 private:
  bool has_opened(uint64_t before) const {
    return generation_.load(std::memory_order_acquire) != before || broken_.load(std::memory_order_acquire);
  }

  void open() {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }
    wake_.notify_all();
  }

  void sleep_until_opened(uint64_t before) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] {
      return generation_.load(std::memory_order_seq_cst) != before || broken_.load(std::memory_order_seq_cst);
    });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

  const int size_;
  const bool may_spin_;
  // On lines of their own: arrivals must not disturb those who poll the generation.
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> broken_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

void Worker::sync() const { barrier->sync(); }

std::pair<int64_t, int64_t> Worker::share(int64_t n, int64_t grain) const {
  const int64_t units = (n + grain - 1) / grain;
  const int64_t begin = units * rank / size * grain, end = units * (rank + 1) / size * grain;
  return {std::min(begin, n), std::min(end, n)};
}

struct ThreadPool::State {
  State(int num_threads, std::vector<int> processors)
      : size(num_threads),
        cpus(std::move(processors)),
        gate(num_threads, num_threads <= available_cores()),
        phases(num_threads, num_threads <= available_cores()),
        errors(static_cast<size_t>(num_threads)) {}

  // Run the body as one worker; keep what it throws and release the others from their syncs.
  void run_body(int rank) {
    try {
      (*body)(Worker{rank, size, &phases});
    } catch (const TeamBroken&) {
      return;
    } catch (...) {
      errors[static_cast<size_t>(rank)] = std::current_exception();
      phases.break_team();
    }
  }

  void work(int rank) {
    while (true) {
      gate.arrive_and_wait(kIdleSpins);
      if (body == nullptr) return;
      run_body(rank);
      gate.arrive_and_wait(kSyncSpins);
    }
  }

  void join() {
    for (std::thread& thread : threads) thread.join();
  }

  const int size;
  const std::vector<int> cpus;  // [size] or empty
  Barrier gate;                 // opens when a run begins and again when it is over
  Barrier phases;               // the `sync` of the bodies
  const std::function<void(const Worker&)>* body = nullptr;  // written before the gate opens; null means stop
  std::vector<std::exception_ptr> errors;                    // by rank
  std::vector<std::thread> threads;
  std::mutex one_run;
};

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus) {
  PICERT_CHECK(num_threads >= 1 && num_threads <= kMaxThreads, "num_threads is ", num_threads, ": use 1 to ",
               kMaxThreads);
  PICERT_CHECK(cpus.empty() || cpus.size() == static_cast<size_t>(num_threads), cpus.size(),
               " processors are given for ", num_threads, " threads: give each thread one, or none");
  state_ = std::make_unique<State>(num_threads, std::move(cpus));
  try {
    for (int rank = 1; rank < num_threads; rank++) {
      state_->threads.emplace_back([state = state_.get(), rank] { state->work(rank); });
      if (!state_->cpus.empty()) {
        bind(state_->threads.back().native_handle(), state_->cpus[static_cast<size_t>(rank)]);
      }
    }
  } catch (...) {  // the system gives no more threads: send home those there are
    state_->gate.break_team();
    state_->join();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  state_->body = nullptr;
  state_->gate.arrive_and_wait(kSyncSpins);
  state_->join();
}

void ThreadPool::run(const std::function<void(const Worker&)>& body) {
  const std::lock_guard<std::mutex> lock(state_->one_run);
  const CallerBinding binding(state_->cpus);
  state_->phases.mend();
  std::fill(state_->errors.begin(), state_->errors.end(), nullptr);
  state_->body = &body;
  state_->gate.arrive_and_wait(kSyncSpins);
  state_->run_body(0);
  state_->gate.arrive_and_wait(kSyncSpins);
  for (const std::exception_ptr& error : state_->errors) {
    if (error) std::rethrow_exception(error);
  }
}

int ThreadPool::size() const { return state_->size; }

}  // namespace picert::cpu
