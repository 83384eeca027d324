// sampling_state.cpp: bias, penalties and bans.
#include "sample/sampling_state.h"

#include <algorithm>
#include <limits>

#include "check.h"

namespace picert::sample {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();

void check_id(const char* name, int32_t id) {
  PICERT_CHECK(id >= 0, name, " holds token ", id, ", ids start at 0");
}

void ban(float* x, int64_t n, const TokenMask& mask) {
  const int64_t known = std::min(n, mask.size);
  for (int64_t i = 0; i < known; i++) {
    if (!mask.allowed[i]) x[i] = kBanned;
  }
  std::fill(x + known, x + n, kBanned);
}

}  // namespace

SamplingState::SamplingState(SamplingParams params, const std::vector<int32_t>& prompt_ids)
    : params_(std::move(params)),
      has_penalty_(params_.repetition_penalty != 1.0f || params_.presence_penalty != 0.0f ||
                   params_.frequency_penalty != 0.0f) {
  for (const auto& [id, bias] : params_.logit_bias) check_id("logit_bias", id);
  for (const int32_t id : params_.end_ids) check_id("end_ids", id);
  for (const int32_t id : prompt_ids) check_id("prompt_ids", id);
  if (params_.repetition_penalty == 1.0f) return;
  for (const int32_t id : prompt_ids) counts_.emplace(id, 0);
}

void SamplingState::record(int32_t token_id) {
  num_generated_++;
  if (has_penalty_) counts_[token_id]++;
}

bool SamplingState::is_plain(const TokenMask& mask) const {
  return !has_penalty_ && params_.logit_bias.empty() && mask.allowed == nullptr &&
         num_generated_ >= params_.min_tokens;
}

void SamplingState::shape(float* x, int64_t n, const TokenMask& mask) const {
  for (const auto& [id, bias] : params_.logit_bias) {
    if (id < n) x[id] += bias;
  }
  if (has_penalty_) penalize(x, n);
  if (num_generated_ < params_.min_tokens) {
    for (const int32_t id : params_.end_ids) {
      if (id < n) x[id] = kBanned;
    }
  }
  if (mask.allowed != nullptr) ban(x, n, mask);
}

void SamplingState::penalize(float* x, int64_t n) const {
  const float repetition = params_.repetition_penalty;
  for (const auto& [id, count] : counts_) {
    if (id >= n) continue;
    float value = x[id] > 0.0f ? x[id] / repetition : x[id] * repetition;
    if (count > 0) {
      value -= params_.frequency_penalty * static_cast<float>(count) + params_.presence_penalty;
    }
    x[id] = value;
  }
}

}  // namespace picert::sample
