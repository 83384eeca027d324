// sampling_state.h: what one request's next token depends on besides its logits.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace picert::sample {

// How a request's tokens are drawn: picert.messages.SamplingParams with the engine's part filled in.
struct SamplingParams {
  double temperature;  // 0 is greedy
  int64_t top_k;       // 0: all
  double top_p;        // 1: all
  double min_p;        // 0: all
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int64_t min_tokens;
  std::vector<int32_t> end_ids;  // out of reach before min_tokens
  int64_t num_top;               // best tokens to report
  uint64_t seed;
};

// Tokens that may come next: allowed[size], tokens beyond it may not. No array: everything may.
struct TokenMask {
  const bool* allowed = nullptr;
  int64_t size = 0;
};

class SamplingState {
 public:
  // Throws std::invalid_argument for a negative token id.
  SamplingState(SamplingParams params, const std::vector<int32_t>& prompt_ids);

  // Take note of the token that was chosen.
  void record(int32_t token_id);

  // Whether `shape` would change nothing.
  bool is_plain(const TokenMask& mask) const;

  // Bias, penalties, and -inf for what may not come, in this order, on logits x[n].
  void shape(float* x, int64_t n, const TokenMask& mask) const;

  const SamplingParams& params() const { return params_; }
  int64_t num_generated() const { return num_generated_; }

 private:
  void penalize(float* x, int64_t n) const;

  SamplingParams params_;
  bool has_penalty_;
  // Token -> times generated; those of the prompt are in with 0 where the repetition penalty wants them.
  std::unordered_map<int32_t, int32_t> counts_;
  int64_t num_generated_ = 0;
};

}  // namespace picert::sample
