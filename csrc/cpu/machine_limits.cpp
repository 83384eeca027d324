// machine_limits.cpp: the portable loops, and the measuring.
#include "cpu/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/aligned_buffer.h"
#include "cpu/float_formats.h"
#include "cpu/thread_pool.h"

namespace picert::cpu {
namespace {

uint32_t read(const void* data, size_t bytes) {
  uint64_t sums[4] = {0, 0, 0, 0};
  for (size_t i = 0; i < bytes; i += sizeof sums) {
    uint64_t words[4];
    std::memcpy(words, static_cast<const char*>(data) + i, sizeof words);
    for (int j = 0; j < 4; j++) sums[j] += words[j];
  }
  return static_cast<uint32_t>(sums[0] + sums[1] + sums[2] + sums[3]);
}

constexpr int kLanes = 16;

int64_t int8_rounds(int64_t rounds, uint32_t* sink) {
  int32_t sums[kLanes] = {};
  for (int64_t i = 0; i < rounds; i++) {
    const auto a = static_cast<int8_t>(i), b = static_cast<int8_t>(*sink + 3);
    for (int j = 0; j < kLanes; j++) sums[j] += static_cast<int8_t>(a + j) * b;
  }
  for (const int32_t sum : sums) *sink += static_cast<uint32_t>(sum);
  return rounds * kLanes;
}

int64_t fp32_rounds(int64_t rounds, uint32_t* sink) {
  float sums[kLanes] = {};
  const float a = static_cast<float>(*sink & 7u) * 0.1f, b = 0.5f;
  for (int64_t i = 0; i < rounds; i++) {
    for (int j = 0; j < kLanes; j++) sums[j] = sums[j] * b + a;
  }
  for (const float sum : sums) *sink += bits_of_float(sum);
  return rounds * kLanes;
}

const LimitLoops& limit_loops(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kLimitLoops;
  if (isa != Isa::scalar) return avx2::kLimitLoops;
#endif
  (void)isa;
  return scalar::kLimitLoops;
}

constexpr double kMeasureSeconds = 0.3;
constexpr size_t kLine = 256;  // bytes that `read` takes at a time

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The shortest time of one `work`, repeated for kMeasureSeconds and at least twice.
double best_seconds(const std::function<void()>& work) {
  double best = seconds_of(work), spent = best;
  for (int runs = 1; runs < 2 || spent < kMeasureSeconds; runs++) {
    const double seconds = seconds_of(work);
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

double rate_of_rounds(int num_threads, int64_t (*rounds)(int64_t, uint32_t*)) {
  constexpr int64_t kRounds = 1000000;
  ThreadPool pool(num_threads);
  std::vector<int64_t> done(static_cast<size_t>(num_threads));
  const double seconds = best_seconds([&] {
    pool.run([&](const Worker& worker) {
      volatile uint32_t result;
      uint32_t sink = static_cast<uint32_t>(worker.rank);
      done[static_cast<size_t>(worker.rank)] = rounds(kRounds, &sink);
      result = sink;
      (void)result;
    });
  });
  int64_t total = 0;
  for (const int64_t count : done) total += count;
  return static_cast<double>(total) / seconds / 1e9;
}

}  // namespace

const LimitLoops scalar::kLimitLoops = {read, int8_rounds, fp32_rounds};

double measure_bandwidth(int num_threads, size_t bytes, Isa isa) {
  constexpr size_t kLeast = size_t{1} << 20, kMost = size_t{1} << 34;
  PICERT_CHECK(bytes >= kLeast && bytes <= kMost, "bytes is ", bytes, ", must be ", kLeast, " to ", kMost);
  ThreadPool pool(num_threads);
  AlignedBuffer buffer(bytes);
  const auto lines = static_cast<int64_t>(bytes / kLine);
  const auto read_all = limit_loops(isa).read;
  std::vector<uint32_t> sums(static_cast<size_t>(num_threads));
  const auto part_of = [&](const Worker& worker) {
    const auto [begin, end] = worker.share(lines);
    return std::make_pair(buffer.as<uint8_t>() + static_cast<size_t>(begin) * kLine,
                          static_cast<size_t>(end - begin) * kLine);
  };
  pool.run([&](const Worker& worker) {  // written, so that it is memory of its own and not the zero page
    const auto [data, size] = part_of(worker);
    std::memset(data, worker.rank + 1, size);
  });
  const double seconds = best_seconds([&] {
    pool.run([&](const Worker& worker) {
      const auto [data, size] = part_of(worker);
      sums[static_cast<size_t>(worker.rank)] = read_all(data, size);
    });
  });
  return static_cast<double>(static_cast<size_t>(lines) * kLine) / seconds / 1e9;
}

double measure_int8_peak(int num_threads, Isa isa) {
  return rate_of_rounds(num_threads, limit_loops(isa).int8_rounds);
}

double measure_fp32_peak(int num_threads, Isa isa) {
  return rate_of_rounds(num_threads, limit_loops(isa).fp32_rounds);
}

}  // namespace picert::cpu
