// attention.h: causal attention of a step's tokens over their sequences' pages, grouped-query, with fp32
// arithmetic.
//
// A token's result has the same bits alone or in a batch, in a chunked or whole prefill and for any number of
// threads: positions are gathered in order, in chunks of kChunk and spans of kSpan anchored at position 0,
// each span from nothing, and spans are merged in order, whoever computed them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "cpu/attention_kernels.h"
#include "cpu/thread_pool.h"

namespace picert::cpu {

// Where the step's tokens stand: tokens of sequence s are rows query_start[s] to query_start[s + 1], the last
// of them at position context_lens[s] - 1; its pages are block_tables[s * max_blocks] and on.
struct AttentionBatch {
  int64_t num_seqs;
  int64_t max_blocks;
  const int32_t* query_start;
  const int32_t* context_lens;
  const int32_t* block_tables;
};

// Throws std::invalid_argument unless every token, block and length of `batch` lies within its bounds.
void check_batch(const AttentionBatch& batch, int64_t num_tokens, int64_t num_blocks, int64_t block_size);

// The work of one step, the same for each layer: built once, before the team starts.
class AttentionPlan {
 public:
  // `shape.window` is not looked at: layers may differ in it.
  void build(const AttentionShape& shape, const AttentionBatch& batch, int num_threads);

  // Floats that the partial results of one layer take; 0 if no item is split.
  int64_t partials_size() const { return partials_size_; }

  // Compute one layer: this worker takes items as they come. `next` is a counter of this layer's own that
  // starts at 0. `out` may be `q`. A sync is needed before anyone reads `out`.
  void run(const Worker& worker, const AttentionKernels& kernels, const AttentionShape& shape,
           const KvPages& pages, const float* q, float* scratch, float* partials, std::atomic<int64_t>& next,
           float* out) const;

 private:
  void split(const AttentionShape& shape, AttentionItem item);

  std::vector<AttentionItem> items_;  // what workers take, costly ones first
  std::vector<AttentionItem> split_;  // the whole of each item that was cut into spans
  int64_t partials_size_ = 0;
};

}  // namespace picert::cpu
