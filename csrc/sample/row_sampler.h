// row_sampler.h: a row of logits to a token, as its request's state says.
//
// The order: logit bias, penalties, end tokens before min_tokens, mask, temperature, min-p, top-k, top-p.
// Log-probabilities are the model's own, before all of that. A row's result depends on the row and its state
// alone. The slow, obvious twin is tests/support/naive_sampler.py.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "sample/logits_kernels.h"
#include "sample/sampling_state.h"
#include "sample/selection.h"

namespace picert::sample {

constexpr int32_t kNoToken = -1;

struct Sampled {
  int32_t token_id = kNoToken;  // none: the logits are not finite, or nothing is allowed
  double logprob = 0.0;
  std::vector<std::pair<int32_t, double>> top;  // (token id, log-probability), best first
};

// Keeps scratch memory, so one thread at a time.
class RowSampler {
 public:
  // Rows of `vocab_size` >= 1 logits.
  RowSampler(int64_t vocab_size, const LogitsKernels& kernels);

  // The next token, recorded in `state`.
  Sampled sample(const Row& plain, SamplingState& state, const TokenMask& mask);

  // The tokens that may be drawn from a row that is shaped already, by id, with weights in proportion to
  // their chances. Tokens that tie with the last of the top k are all in. Valid until the next call. Throws
  // std::invalid_argument if there is none or the params are greedy.
  const Candidates& candidates(const Row& row, const SamplingParams& params);

 private:
  Row shape(const Row& plain, const SamplingState& state, const TokenMask& mask);
  int32_t draw(const Row& row, const SamplingState& state);
  int32_t draw_from_all(const Row& row, float factor, double number);
  void select(const Row& row, const SamplingParams& params);
  void select_nucleus_of_all(const Row& row, const SamplingParams& params);
  double weigh_candidates(float highest, float factor);
  double weigh_all(const Row& row, float factor);
  std::vector<std::pair<int32_t, double>> best_of(const Row& row, int64_t count, double log_total);

  const LogitsKernels& kernels_;
  std::vector<float> shaped_logits_;  // [V]
  std::vector<float> shaped_max_;     // [blocks]
  std::vector<float> weights_;        // [V]
  std::vector<float> block_weight_;   // [blocks]
  Candidates candidates_;
};

}  // namespace picert::sample
