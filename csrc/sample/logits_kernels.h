// logits_kernels.h: the two passes over a row of logits that cost something, one form for each instruction
// set.
//
// A row is seen as blocks of kBlock logits. The first pass keeps each block's maximum, with which selections
// (the k largest, all above a floor) then skip nearly all blocks.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace picert::sample {

// Large against the cost of reducing a vector to its maximum, small enough that a block, read twice, stays in
// the L1 cache and that a vocabulary has more blocks (384 of 49,152) than a top-k asks tokens.
constexpr int64_t kBlock = 128;

struct RowSummary {
  int64_t best;    // the first of the highest
  float highest;   // -inf if all are
  double sum_exp;  // of e^(x - highest)
  bool is_finite;  // no NaN and no +inf; else the other fields mean nothing
};

struct LogitsKernels {
  // Of x[n], n >= 1; block_max[(n + kBlock - 1) / kBlock]
  void (*summarize)(const float* x, int64_t n, float* block_max, RowSummary* out);
  // weights[i] = e^((x[i] - highest) * factor), for x[i] <= highest and factor > 0; returns their sum.
  float (*weigh)(const float* x, int64_t n, float highest, float factor, float* weights);
};

// The functions for `isa`, which this CPU must support.
const LogitsKernels& logits_kernels(cpu::Isa isa);

namespace scalar {
extern const LogitsKernels kLogitsKernels;
}
namespace avx2 {
extern const LogitsKernels kLogitsKernels;
}
namespace avx512 {
extern const LogitsKernels kLogitsKernels;
}

}  // namespace picert::sample
