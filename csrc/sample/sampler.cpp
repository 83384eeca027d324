// sampler.cpp: first all rows' summaries, then each row's token.
#include "sample/sampler.h"

#include <limits>
#include <utility>

#include "check.h"
#include "sample/segments.h"

namespace picert::sample {
namespace {

int64_t num_blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

}  // namespace

Sampler::Sampler(int64_t vocab_size, std::shared_ptr<cpu::ThreadPool> team, cpu::Isa isa)
    : vocab_size_(vocab_size),
      kernels_(logits_kernels(isa)),
      team_(team != nullptr ? std::move(team) : std::make_shared<cpu::ThreadPool>(1)) {
  PICERT_CHECK(vocab_size >= 1 && vocab_size <= std::numeric_limits<int32_t>::max(), "vocab_size is ",
               vocab_size, ", must be at least 1 and fit 31 bits");
  for (int i = 0; i < team_->size(); i++) samplers_.emplace_back(vocab_size, kernels_);
}

std::vector<Sampled> Sampler::sample(const std::vector<RowInput>& rows) {
  std::vector<Sampled> out(rows.size());
  block_max_.resize(rows.size() * static_cast<size_t>(num_blocks(vocab_size_)));
  segments_.resize(rows.size() * static_cast<size_t>(num_segments(vocab_size_)));
  team_->run([&](const cpu::Worker& worker) {
    summarize(worker, rows);
    worker.sync();
    RowSampler& sampler = samplers_[static_cast<size_t>(worker.rank)];
    const auto [begin, end] = worker.share(static_cast<int64_t>(rows.size()));
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); i++) {
      out[i] = sampler.sample(row_of(rows[i].logits, i), *rows[i].state, rows[i].mask);
    }
  });
  return out;
}

const Candidates& Sampler::candidates(const float* logits, const SamplingParams& params) {
  SamplingState* no_state = nullptr;
  block_max_.resize(static_cast<size_t>(num_blocks(vocab_size_)));
  segments_.resize(static_cast<size_t>(num_segments(vocab_size_)));
  const std::vector<RowInput> rows = {{logits, no_state, {}}};
  team_->run([&](const cpu::Worker& worker) { summarize(worker, rows); });
  return samplers_[0].candidates(row_of(logits, 0), params);
}

// The first segments of all rows, then the second ones: a decoder's threads share out the vocabulary, so a
// thread finds in its own cache what it wrote.
void Sampler::summarize(const cpu::Worker& worker, const std::vector<RowInput>& rows) {
  const auto num_rows = static_cast<int64_t>(rows.size()), per_row = num_segments(vocab_size_);
  const auto [begin, end] = worker.share(num_rows * per_row);
  for (int64_t i = begin; i < end; i++) {
    const int64_t row = i % num_rows, segment = i / num_rows;
    segments_[static_cast<size_t>(row * per_row + segment)] =
        summarize_segment(kernels_, rows[static_cast<size_t>(row)].logits, vocab_size_, segment,
                          block_max_.data() + row * num_blocks(vocab_size_));
  }
}

Row Sampler::row_of(const float* logits, size_t place) const {
  const auto row = static_cast<int64_t>(place), per_row = num_segments(vocab_size_);
  return {logits, vocab_size_, block_max_.data() + row * num_blocks(vocab_size_),
          join(segments_.data() + row * per_row, per_row)};
}

}  // namespace picert::sample
