// sampler.cpp: greedy, drawn from all, or drawn from what top-k, min-p and top-p leave.
#include "sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "sample/philox.h"

namespace picert::sample {
namespace {

constexpr float kNoFloor = -std::numeric_limits<float>::infinity();
// Below, factors overflow in fp32; it is greedy long before.
constexpr double kLeastTemperature = 1e-6;
// A nucleus is looked for among tokens of at least this part of the best one's weight first: in most texts it
// is there, and hardly any block of the row is.
constexpr double kLikelyNucleus = 1e-3;

float inverse_temperature(const SamplingParams& params) {
  return static_cast<float>(1.0 / std::max(params.temperature, kLeastTemperature));
}

// The logit of a token with `weight` times the best one's weight.
float logit_of(double weight, const RowSummary& summary, float factor) {
  return static_cast<float>(static_cast<double>(summary.highest) +
                            std::log(weight) / static_cast<double>(factor));
}

}  // namespace

Sampler::Sampler(int64_t vocab_size, cpu::Isa isa) : vocab_size_(vocab_size), kernels_(logits_kernels(isa)) {
  PICERT_CHECK(vocab_size >= 1 && vocab_size <= std::numeric_limits<int32_t>::max(), "vocab_size is ",
               vocab_size, ", must be at least 1 and fit 31 bits");
  const auto size = static_cast<size_t>(vocab_size);
  const size_t num_blocks = (size + kBlock - 1) / kBlock;
  plain_.block_max.resize(num_blocks);
  shaped_.block_max.resize(num_blocks);
  block_weight_.resize(num_blocks);
  shaped_logits_.resize(size);
  weights_.resize(size);
}

Row Sampler::summarize(const float* x, Summarized& into) const {
  kernels_.summarize(x, vocab_size_, into.block_max.data(), &into.of);
  return {x, vocab_size_, into.block_max.data()};
}

Sampled Sampler::sample(const float* logits, SamplingState& state, const TokenMask& mask) {
  const Row plain = summarize(logits, plain_);
  if (!plain_.of.is_valid) return {};
  Row row = plain;
  const RowSummary* summary = &plain_.of;
  if (!state.is_plain(mask)) {
    std::copy(logits, logits + vocab_size_, shaped_logits_.begin());
    state.shape(shaped_logits_.data(), vocab_size_, mask);
    row = summarize(shaped_logits_.data(), shaped_);
    summary = &shaped_.of;
    if (!summary->is_valid) return {};
  }
  const bool is_greedy = state.params().temperature == 0.0;
  const int32_t token = is_greedy ? static_cast<int32_t>(summary->best) : draw(row, *summary, state);
  state.record(token);
  const double log_total = static_cast<double>(plain_.of.highest) + std::log(plain_.of.sum_exp);
  return {token, static_cast<double>(logits[token]) - log_total,
          best_of(plain, state.params().num_top, log_total)};
}

const Candidates& Sampler::candidates(const float* logits, const SamplingParams& params) {
  PICERT_CHECK(params.temperature > 0.0, "temperature is 0: a greedy token is not drawn");
  const Row row = summarize(logits, plain_);
  PICERT_CHECK(plain_.of.is_valid, "the logits are not finite");
  select(row, plain_.of, params);
  return candidates_;
}

int32_t Sampler::draw(const Row& row, const RowSummary& summary, const SamplingState& state) {
  const SamplingParams& params = state.params();
  const double number = uniform(params.seed, static_cast<uint64_t>(state.num_generated()));
  if (params.top_k == 0 && params.min_p == 0.0 && params.top_p >= 1.0) {
    return draw_from_all(row, summary, inverse_temperature(params), number);
  }
  select(row, summary, params);
  double total = 0.0;
  for (const float weight : candidates_.values) total += static_cast<double>(weight);
  const auto size = static_cast<int64_t>(candidates_.values.size());
  const int64_t place = find_place(candidates_.values.data(), size, number * total);
  return candidates_.ids[static_cast<size_t>(place)];
}

// First the block by the blocks' weights, then the token within it.
int32_t Sampler::draw_from_all(const Row& row, const RowSummary& summary, float factor, double number) {
  double target = number * weigh_all(row, summary, factor);
  const int64_t block = find_place(block_weight_.data(), row.num_blocks(), target);
  for (int64_t i = 0; i < block; i++) target -= static_cast<double>(block_weight_[static_cast<size_t>(i)]);
  const int64_t first = block * kBlock, size = std::min(kBlock, row.n - first);
  return static_cast<int32_t>(first + find_place(weights_.data() + first, size, target));
}

// Fills candidates_.
void Sampler::select(const Row& row, const RowSummary& summary, const SamplingParams& params) {
  const float factor = inverse_temperature(params);
  float floor = kNoFloor;
  if (params.top_k > 0 && params.top_k < row.n) floor = kth_largest(row, params.top_k, candidates_);
  if (params.min_p > 0.0) floor = std::max(floor, logit_of(params.min_p, summary, factor));
  if (floor == kNoFloor && params.top_p < 1.0) return select_nucleus_of_all(row, summary, params);
  gather(row, floor, candidates_);
  const double total = weigh_candidates(summary.highest, factor);
  if (params.top_p < 1.0) keep_nucleus(candidates_, params.top_p * total);
}

// Tokens of weight w < (1 - p) total / n weigh less than (1 - p) total together, so the nucleus is surely
// among the others.
void Sampler::select_nucleus_of_all(const Row& row, const RowSummary& summary, const SamplingParams& params) {
  const float factor = inverse_temperature(params);
  const double total = weigh_all(row, summary, factor), wanted = params.top_p * total;
  const double surely = (total - wanted) / static_cast<double>(row.n);
  for (const double least : {kLikelyNucleus, surely}) {
    gather(row, logit_of(least, summary, factor), candidates_);
    if (weigh_candidates(summary.highest, factor) >= wanted) break;
  }
  keep_nucleus(candidates_, wanted);
}

// Values become weights; returns their sum.
double Sampler::weigh_candidates(float highest, float factor) {
  std::vector<float>& values = candidates_.values;
  const auto size = static_cast<int64_t>(values.size());
  kernels_.weigh(values.data(), size, highest, factor, values.data());
  double total = 0.0;
  for (const float weight : values) total += static_cast<double>(weight);
  return total;
}

// Fills weights_ and block_weight_; returns the sum.
double Sampler::weigh_all(const Row& row, const RowSummary& summary, float factor) {
  double total = 0.0;
  for (int64_t block = 0; block < row.num_blocks(); block++) {
    const int64_t first = block * kBlock, size = std::min(kBlock, row.n - first);
    const float weight =
        kernels_.weigh(row.x + first, size, summary.highest, factor, weights_.data() + first);
    block_weight_[static_cast<size_t>(block)] = weight;
    total += static_cast<double>(weight);
  }
  return total;
}

std::vector<std::pair<int32_t, double>> Sampler::best_of(const Row& row, int64_t count, double log_total) {
  std::vector<std::pair<int32_t, double>> best;
  if (count == 0) return best;
  count = std::min(count, row.n);
  gather(row, kth_largest(row, count, candidates_), candidates_);
  for (size_t i = 0; i < candidates_.ids.size(); i++) {
    best.emplace_back(candidates_.ids[i], static_cast<double>(candidates_.values[i]) - log_total);
  }
  std::stable_sort(best.begin(), best.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  best.resize(static_cast<size_t>(count));
  return best;
}

}  // namespace picert::sample
