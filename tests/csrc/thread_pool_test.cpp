// thread_pool_test.cpp: the team, its barrier and its errors; built with the thread sanitiser.
#include "cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "expect.h"

using namespace picert::cpu;

namespace {

// Each phase every worker checks what all wrote in the phase before, through plain memory.
void writes_before_a_sync_are_seen_after_it() {
  for (const int size : {1, 2, 3, 8}) {
    ThreadPool pool(size);
    std::vector<int> slots(static_cast<size_t>(size), 0);
    std::atomic<int> wrong{0};
    for (int run = 0; run < 20; run++) {
      std::fill(slots.begin(), slots.end(), 0);
      pool.run([&](const Worker& worker) {
        for (int phase = 1; phase <= 100; phase++) {
          slots[static_cast<size_t>(worker.rank)] = phase;
          worker.sync();
          for (const int slot : slots) wrong += slot != phase;
          worker.sync();
        }
      });
    }
    EXPECT(wrong == 0, "%d stale reads with %d workers", wrong.load(), size);
  }
}

void every_worker_runs_once() {
  ThreadPool pool(5);
  EXPECT(pool.size() == 5, "size is %d", pool.size());
  for (int run = 0; run < 200; run++) {
    std::vector<int> calls(5, 0);
    pool.run([&](const Worker& worker) { calls[static_cast<size_t>(worker.rank)] += worker.size; });
    EXPECT(calls == std::vector<int>(5, 5), "run %d", run);
  }
}

void a_sleeping_team_wakes() {  // longer than any spinning lasts
  ThreadPool pool(3);
  int total = 0;
  for (int run = 0; run < 5; run++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> count{0};
    pool.run([&](const Worker& worker) {
      if (worker.rank == 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      worker.sync();
      count++;
    });
    total += count;
  }
  EXPECT(total == 15, "%d workers came back", total);
}

void an_error_of_one_worker_ends_the_run() {
  ThreadPool pool(4);
  for (int thrower = 0; thrower < 4; thrower++) {
    for (int at = 0; at < 3; at++) {
      expect_invalid(
          [&] {
            pool.run([&](const Worker& worker) {
              for (int phase = 0; phase < 5; phase++) {
                if (worker.rank == thrower && phase == at) throw std::invalid_argument("worker has had it");
                worker.sync();
              }
            });
          },
          "worker has had it");
      std::atomic<int> alive{0};
      pool.run([&](const Worker& worker) {
        worker.sync();
        alive++;
      });
      EXPECT(alive == 4, "%d workers after the error", alive.load());
    }
  }
}

void of_several_errors_the_lowest_rank_wins() {
  ThreadPool pool(3);
  expect_invalid(
      [&] {
        pool.run([](const Worker& worker) {
          if (worker.rank > 0) throw std::invalid_argument("rank " + std::to_string(worker.rank));
        });
      },
      "rank 1");
}

void runs_of_two_callers_do_not_mix() {
  ThreadPool pool(2);
  int count = 0;  // unprotected: only one run at a time may touch it
  const auto caller = [&] {
    for (int run = 0; run < 100; run++) {
      pool.run([&](const Worker& worker) {
        if (worker.rank == 0) count++;
      });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  EXPECT(count == 200, "%d runs", count);
}

void shares_cover_everything_once() {
  for (int size = 1; size <= 7; size++) {
    for (int64_t n : {0, 1, 5, 16, 100, 1000}) {
      for (int64_t grain : {1, 3, 16}) {
        int64_t next = 0;
        for (int rank = 0; rank < size; rank++) {
          const auto [begin, end] = Worker{rank, size, nullptr}.share(n, grain);
          EXPECT(begin == next && end >= begin, "gap at %d of %d", int(begin), int(n));
          EXPECT(end == n || end % grain == 0, "cut at %d with grain %d", int(end), int(grain));
          next = end;
        }
        EXPECT(next == n, "%d of %d", int(next), int(n));
      }
    }
  }
}

void bound_workers_run_on_their_processors() {
  cpu_set_t before, after;
  sched_getaffinity(0, sizeof before, &before);
  std::vector<int> usable;
  for (int cpu = 0; cpu < CPU_SETSIZE && usable.size() < 2; cpu++) {
    if (CPU_ISSET(static_cast<size_t>(cpu), &before)) usable.push_back(cpu);
  }
  std::reverse(usable.begin(), usable.end());  // worker 0 on the second one
  const auto size = static_cast<int>(usable.size());
  ThreadPool pool(size, usable);
  std::vector<int> seen(usable.size(), -1);
  pool.run([&](const Worker& worker) { seen[static_cast<size_t>(worker.rank)] = sched_getcpu(); });
  EXPECT(seen == usable, "worker 0 ran on processor %d", seen[0]);
  sched_getaffinity(0, sizeof after, &after);
  EXPECT(CPU_EQUAL(&before, &after), "the caller stays bound to %d processors", CPU_COUNT(&after));
}

void impossible_processors_are_refused() {
  expect_invalid([] { ThreadPool pool(2, {0}); }, "1 processors are given for 2 threads");
  expect_invalid([] { ThreadPool pool(2, {0, 1023}); }, "processor 1023 cannot be used");
  expect_invalid([] { ThreadPool pool(2, {0, -1}); }, "processor -1 cannot be used");
  ThreadPool pool(1, {1023});
  expect_invalid([&] { pool.run([](const Worker&) {}); }, "processor 1023 cannot be used");
}

void impossible_sizes_are_refused() {
  expect_invalid([] { ThreadPool pool(0); }, "num_threads is 0");
  expect_invalid([] { ThreadPool pool(1 << 20); }, "use 1 to");
}

}  // namespace

int main(int argc, char** argv) {
  return run_case({{"writes_before_a_sync_are_seen_after_it", writes_before_a_sync_are_seen_after_it},
                   {"every_worker_runs_once", every_worker_runs_once},
                   {"a_sleeping_team_wakes", a_sleeping_team_wakes},
                   {"an_error_of_one_worker_ends_the_run", an_error_of_one_worker_ends_the_run},
                   {"of_several_errors_the_lowest_rank_wins", of_several_errors_the_lowest_rank_wins},
                   {"runs_of_two_callers_do_not_mix", runs_of_two_callers_do_not_mix},
                   {"shares_cover_everything_once", shares_cover_everything_once},
                   {"bound_workers_run_on_their_processors", bound_workers_run_on_their_processors},
                   {"impossible_processors_are_refused", impossible_processors_are_refused},
                   {"impossible_sizes_are_refused", impossible_sizes_are_refused}},
                  argc, argv);
}
