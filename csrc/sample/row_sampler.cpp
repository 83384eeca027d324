// row_sampler.cpp: greedy, drawn from all, or drawn from what top-k, min-p and top-p leave.
#include "sample/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "sample/philox.h"
#include "sample/segments.h"

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

bool has_token(const RowSummary& summary) { return summary.is_finite && summary.highest > kNoFloor; }

}  // namespace

RowSampler::RowSampler(int64_t vocab_size, const LogitsKernels& kernels) : kernels_(kernels) {
  const auto size = static_cast<size_t>(vocab_size);
  const size_t num_blocks = (size + kBlock - 1) / kBlock;
  shaped_max_.resize(num_blocks);
  block_weight_.resize(num_blocks);
  shaped_logits_.resize(size);
  weights_.resize(size);
}

Sampled RowSampler::sample(const Row& plain, SamplingState& state, const TokenMask& mask) {
  if (!has_token(plain.summary)) return {};
  const Row row = state.is_plain(mask) ? plain : shape(plain, state, mask);
  if (!has_token(row.summary)) return {};
  const bool is_greedy = state.params().temperature == 0.0;
  const int32_t token = is_greedy ? static_cast<int32_t>(row.summary.best) : draw(row, state);
  state.record(token);
  const double log_total = static_cast<double>(plain.summary.highest) + std::log(plain.summary.sum_exp);
  return {token, static_cast<double>(plain.x[token]) - log_total,
          best_of(plain, state.params().num_top, log_total)};
}

const Candidates& RowSampler::candidates(const Row& row, const SamplingParams& params) {
  PICERT_CHECK(params.temperature > 0.0, "temperature is 0: a greedy token is not drawn");
  PICERT_CHECK(has_token(row.summary), "the logits are not finite");
  select(row, params);
  return candidates_;
}

// A shaped copy.
Row RowSampler::shape(const Row& plain, const SamplingState& state, const TokenMask& mask) {
  float* x = shaped_logits_.data();
  std::copy(plain.x, plain.x + plain.n, x);
  state.shape(x, plain.n, mask);
  const RowSummary summary = summarize_row(kernels_, x, plain.n, shaped_max_.data());
  return {x, plain.n, shaped_max_.data(), summary};
}

int32_t RowSampler::draw(const Row& row, const SamplingState& state) {
  const SamplingParams& params = state.params();
  const double number = uniform(params.seed, static_cast<uint64_t>(state.num_generated()));
  if (params.top_k == 0 && params.min_p == 0.0 && params.top_p >= 1.0) {
    return draw_from_all(row, inverse_temperature(params), number);
  }
  select(row, params);
  double total = 0.0;
  for (const float weight : candidates_.values) total += static_cast<double>(weight);
  const auto size = static_cast<int64_t>(candidates_.values.size());
  const int64_t place = find_place(candidates_.values.data(), size, number * total);
  return candidates_.ids[static_cast<size_t>(place)];
}

// First the block by the blocks' weights, then the token within it.
int32_t RowSampler::draw_from_all(const Row& row, float factor, double number) {
  double target = number * weigh_all(row, factor);
  const int64_t block = find_place(block_weight_.data(), row.num_blocks(), target);
  for (int64_t i = 0; i < block; i++) target -= static_cast<double>(block_weight_[static_cast<size_t>(i)]);
  const int64_t first = block * kBlock, size = std::min(kBlock, row.n - first);
  return static_cast<int32_t>(first + find_place(weights_.data() + first, size, target));
}

// Fills candidates_.
void RowSampler::select(const Row& row, const SamplingParams& params) {
  const float factor = inverse_temperature(params);
  float floor = kNoFloor;
  if (params.top_k > 0 && params.top_k < row.n) floor = kth_largest(row, params.top_k, candidates_);
  if (params.min_p > 0.0) floor = std::max(floor, logit_of(params.min_p, row.summary, factor));
  if (floor == kNoFloor && params.top_p < 1.0) return select_nucleus_of_all(row, params);
  gather(row, floor, candidates_);
  const double total = weigh_candidates(row.summary.highest, factor);
  if (params.top_p < 1.0) keep_nucleus(candidates_, params.top_p * total);
}

// Tokens of weight w < (1 - p) total / n weigh less than (1 - p) total together, so the nucleus is surely
// among the others.
void RowSampler::select_nucleus_of_all(const Row& row, const SamplingParams& params) {
  const float factor = inverse_temperature(params);
  const double total = weigh_all(row, factor), wanted = params.top_p * total;
  const double surely = (total - wanted) / static_cast<double>(row.n);
  for (const double least : {kLikelyNucleus, surely}) {
    gather(row, logit_of(least, row.summary, factor), candidates_);
    if (weigh_candidates(row.summary.highest, factor) >= wanted) break;
  }
  keep_nucleus(candidates_, wanted);
}

// Values become weights; returns their sum.
double RowSampler::weigh_candidates(float highest, float factor) {
  std::vector<float>& values = candidates_.values;
  const auto size = static_cast<int64_t>(values.size());
  kernels_.weigh(values.data(), size, highest, factor, values.data());
  double total = 0.0;
  for (const float weight : values) total += static_cast<double>(weight);
  return total;
}

// Fills weights_ and block_weight_; returns the sum.
double RowSampler::weigh_all(const Row& row, float factor) {
  double total = 0.0;
  for (int64_t block = 0; block < row.num_blocks(); block++) {
    const int64_t first = block * kBlock, size = std::min(kBlock, row.n - first);
    const float weight =
        kernels_.weigh(row.x + first, size, row.summary.highest, factor, weights_.data() + first);
    block_weight_[static_cast<size_t>(block)] = weight;
    total += static_cast<double>(weight);
  }
  return total;
}

std::vector<std::pair<int32_t, double>> RowSampler::best_of(const Row& row, int64_t count, double log_total) {
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
