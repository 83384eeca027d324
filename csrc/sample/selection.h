// selection.h: which tokens a draw is among, found without sorting a vocabulary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sample/logits_kernels.h"

namespace picert::sample {

// Logits x[n] with what summarize found in them.
struct Row {
  const float* x;
  int64_t n;
  const float* block_max;  // [num_blocks]
  RowSummary summary;

  int64_t num_blocks() const;
};

// Some tokens of a row in order of id. Once weighed, `values` are weights.
struct Candidates {
  std::vector<int32_t> ids;
  std::vector<float> values;

  void resize(size_t size) {
    ids.resize(size);
    values.resize(size);
  }
};

// All tokens whose logit is at least `floor`.
void gather(const Row& row, float floor, Candidates& out);

// The k-th largest logit, 1 <= k <= n. `scratch` is overwritten.
float kth_largest(const Row& row, int64_t k, Candidates& scratch);

// Of weights up to 1, keep the fewest of the heaviest that weigh `wanted` together, in order of id; of equal
// weights the first ids. All stay if they weigh less.
void keep_nucleus(Candidates& candidates, double wanted);

// The place i at which the weights up to and including it first exceed `target` >= 0; the last that weighs
// anything if the sum does not get there.
int64_t find_place(const float* weights, int64_t n, double target);

}  // namespace picert::sample
