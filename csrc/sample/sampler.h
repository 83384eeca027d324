// sampler.h: a batch of rows to tokens, on a team of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "sample/row_sampler.h"

namespace picert::sample {

struct RowInput {
  const float* logits;  // [V]
  SamplingState* state;
  TokenMask mask;
};

// One call at a time.
class Sampler {
 public:
  // Rows of `vocab_size` >= 1 logits. No team: the calling thread alone. Throws std::invalid_argument.
  Sampler(int64_t vocab_size, std::shared_ptr<cpu::ThreadPool> team, cpu::Isa isa);

  // The next token of each row, recorded in its state.
  std::vector<Sampled> sample(const std::vector<RowInput>& rows);

  // See RowSampler::candidates; of logits[V] that are shaped already.
  const Candidates& candidates(const float* logits, const SamplingParams& params);

  int64_t vocab_size() const { return vocab_size_; }

 private:
  void summarize(const cpu::Worker& worker, const std::vector<RowInput>& rows);
  Row row_of(const float* logits, size_t place) const;

  const int64_t vocab_size_;
  const LogitsKernels& kernels_;
  const std::shared_ptr<cpu::ThreadPool> team_;
  std::vector<RowSampler> samplers_;  // [threads]
  std::vector<float> block_max_;      // [rows, blocks]
  std::vector<RowSummary> segments_;  // [rows, segments]
};

}  // namespace picert::sample
