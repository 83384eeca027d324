// thread_pool.h: a team of threads that run one function together (SPMD), with a cheap barrier between its
// phases.
//
// One step of a decoder is one `run`: each worker executes the whole step, takes its share of every operation
// and meets the others at `sync`. A 30-layer model has about 200 of them a step, so a barrier must cost about
// a microsecond: workers spin briefly, then sleep, so that more workers than cores stay correct and do not
// starve.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace picert::cpu {

class Barrier;

// One thread's view of the team during a run.
struct Worker {
  int rank;
  int size;
  Barrier* barrier;

  // Wait until all workers of the team are here; writes made before are visible to all after.
  void sync() const;

  // This worker's part [begin, end) of n items, cut at multiples of `grain`.
  std::pair<int64_t, int64_t> share(int64_t n, int64_t grain = 1) const;
};

class ThreadPool {
 public:
  // `num_threads` >= 1, the calling thread among them. With `cpus`, worker i runs on processor cpus[i] alone;
  // the thread that calls `run` is worker 0 and is bound while it lasts. Throws std::invalid_argument, also
  // for a processor that this process may not use.
  explicit ThreadPool(int num_threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Run `body` on every worker and return when all have. When a worker throws, the others' next `sync` ends
  // their part too, and the exception is rethrown here (of several, the lowest rank's). Calls from several
  // threads take turns.
  void run(const std::function<void(const Worker&)>& body);

  int size() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace picert::cpu
