// logits_kernels_body.h: logits_kernels.h over `Vec`. Include a cpu/vec_<isa>.h first.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/vec_math.h"
#include "sample/logits_kernels.h"

namespace picert::sample {
namespace {

using cpu::Vec;

constexpr float kInfinity = __builtin_inff();
static_assert(kBlock % Vec::kWidth == 0, "a block is whole vectors");

// The maximum of a whole block; lanes of `invalid` become 1 for NaN and +inf.
float block_maximum(const float* x, Vec* invalid) {
  Vec highest = cpu::splat(-kInfinity);
  for (int64_t i = 0; i < kBlock; i += Vec::kWidth) {
    const Vec v = cpu::load(x + i);
    highest = cpu::max(v, highest);
    const Vec is_bad = cpu::select_less(v, cpu::splat(kInfinity), cpu::splat(0.0f), cpu::splat(1.0f));
    *invalid = cpu::max(*invalid, is_bad);
  }
  return cpu::maximum(highest);
}

// Lanes' sums of e^(x - highest) over a whole block. The clamp adds e^-87.3 for -inf, nothing beside the 1 of
// the highest.
Vec block_sum_exp(const float* x, Vec highest) {
  Vec total = cpu::splat(0.0f);
  for (int64_t i = 0; i < kBlock; i += Vec::kWidth) {
    const Vec below = cpu::sub(cpu::load(x + i), highest);
    total = cpu::add(total, cpu::exp_in_range(cpu::max(below, cpu::splat(-87.3f))));
  }
  return total;
}

// One pass: each block's sum is taken under the highest so far, and what was summed is scaled down when a
// higher one comes, which is rare. The last block is filled up with -inf, which changes neither result.
void summarize(const float* x, int64_t n, float* block_max, RowSummary* out) {
  float padded[kBlock];
  Vec invalid = cpu::splat(0.0f), total = cpu::splat(0.0f);
  float highest = -kInfinity;
  int64_t best = 0;
  for (int64_t first = 0; first < n; first += kBlock) {
    const float* block = x + first;
    if (n - first < kBlock) {
      for (int64_t i = 0; i < kBlock; i++) padded[i] = first + i < n ? block[i] : -kInfinity;
      block = padded;
    }
    const float top = block_maximum(block, &invalid);
    block_max[first / kBlock] = top;
    if (top > highest) {
      total = cpu::mul(total, cpu::splat(expf(highest - top)));
      highest = top;
      best = first;
    }
    if (highest > -kInfinity) total = cpu::add(total, block_sum_exp(block, cpu::splat(highest)));
  }
  const bool is_finite = cpu::maximum(invalid) == 0.0f;
  while (is_finite && x[best] != highest) best++;
  *out = {best, highest, static_cast<double>(cpu::sum(total)), is_finite};
}

float weigh(const float* x, int64_t n, float highest, float factor, float* weights) {
  Vec total = cpu::splat(0.0f);
  cpu::for_each_vec(n, [&](int64_t i, int64_t lanes) {
    const Vec below = cpu::sub(cpu::load_first(x + i, lanes), cpu::splat(highest));
    cpu::store_first(weights + i, cpu::exp_not_positive(cpu::mul(below, cpu::splat(factor))), lanes);
    total = cpu::add(total, cpu::load_first(weights + i, lanes));  // lanes past the end count nothing
  });
  return cpu::sum(total);
}

constexpr LogitsKernels kFunctions = {summarize, weigh};

}  // namespace
}  // namespace picert::sample
