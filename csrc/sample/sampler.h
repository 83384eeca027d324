// sampler.h: a row of logits to a token, as its request's state says.
//
// The order: logit bias, penalties, end tokens before min_tokens, mask, temperature, min-p, top-k, top-p.
// Log-probabilities are the model's own, before all of that. A row's result depends on the row and its state
// alone. The slow, obvious twin is tests/support/naive_sampler.py.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/isa.h"
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
class Sampler {
 public:
  // Of the first `vocab_size` >= 1 logits of a row. Throws std::invalid_argument.
  Sampler(int64_t vocab_size, cpu::Isa isa);

  // The next token for logits[V], recorded in `state`.
  Sampled sample(const float* logits, SamplingState& state, const TokenMask& mask);

  // The tokens that may be drawn from shaped logits[V], by id, with weights in proportion to their chances.
  // Tokens that tie with the last of the top k are all in. Valid until the next call. Throws
  // std::invalid_argument if the logits are not finite or the state is greedy.
  const Candidates& candidates(const float* logits, const SamplingParams& params);

  int64_t vocab_size() const { return vocab_size_; }

 private:
  // A row's logits with what `summarize` found in them.
  struct Summarized {
    std::vector<float> block_max;
    RowSummary of;
  };

  Row summarize(const float* x, Summarized& into) const;
  int32_t draw(const Row& row, const RowSummary& summary, const SamplingState& state);
  int32_t draw_from_all(const Row& row, const RowSummary& summary, float factor, double uniform);
  void select(const Row& row, const RowSummary& summary, const SamplingParams& params);
  void select_nucleus_of_all(const Row& row, const RowSummary& summary, const SamplingParams& params);
  double weigh_candidates(float highest, float factor);
  double weigh_all(const Row& row, const RowSummary& summary, float factor);
  std::vector<std::pair<int32_t, double>> best_of(const Row& row, int64_t count, double log_total);

  const int64_t vocab_size_;
  const LogitsKernels& kernels_;
  Summarized plain_, shaped_;
  std::vector<float> shaped_logits_;  // [V]
  std::vector<float> weights_;        // [V]
  std::vector<float> block_weight_;   // [blocks]
  Candidates candidates_;
};

}  // namespace picert::sample
