// machine_limits.h: what the machine allows, measured: the scale against which the kernels' speed is read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"

namespace picert::cpu {

// Each takes about a third of a second. `num_threads` as for ThreadPool, `isa` supported here.

// GB/s that `num_threads` threads read from a buffer of `bytes` (at least 1 MiB; larger than the caches for a
// figure of the memory).
double measure_bandwidth(int num_threads, size_t bytes, Isa isa);
// Multiply-accumulates per second, in 1e9, of 8-bit by 8-bit into 32-bit integers.
double measure_int8_peak(int num_threads, Isa isa);
// The same of fp32.
double measure_fp32_peak(int num_threads, Isa isa);

// One instruction set's loops. None allocates or touches memory other than its argument's.
struct LimitLoops {
  // Read it all; the result depends on every byte. `bytes` is a multiple of 256.
  uint32_t (*read)(const void* data, size_t bytes);
  // Do `rounds` rounds in registers and return the multiply-accumulates done. `sink` keeps the result alive.
  int64_t (*int8_rounds)(int64_t rounds, uint32_t* sink);
  int64_t (*fp32_rounds)(int64_t rounds, uint32_t* sink);
};

namespace scalar {
extern const LimitLoops kLimitLoops;
}
namespace avx2 {
extern const LimitLoops kLimitLoops;
}
namespace avx512 {
extern const LimitLoops kLimitLoops;
}

}  // namespace picert::cpu
