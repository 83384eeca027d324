// attention.h: causal attention of a step's tokens over their sequences' pages, grouped-query, with fp32
// arithmetic.
//
// A token's result has the same bits alone or in a batch, in a chunked or whole prefill and for any number of
// threads: positions are gathered in order, in spans of kSpan anchored at position 0, each span from nothing,
// and spans are folded in order, whoever computed them.
//
// So a span may be computed anywhere: long contexts are cut among workers, and decoding sequences whose block
// tables begin with the same blocks share one pass over the spans in them.
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

  // Floats that the partial results of one layer take; 0 if there are none.
  int64_t partials_size() const { return partials_size_; }
  const std::vector<AttentionQuery>& queries() const { return queries_; }
  const std::vector<AttentionItem>& items() const { return items_; }

  // Compute one layer: this worker takes items as they come. `next` is a counter of this layer's own that
  // starts at 0. `out` may be `q`. A sync is needed before anyone reads `out`.
  void run(const Worker& worker, const AttentionKernels& kernels, const AttentionShape& shape,
           const KvPages& pages, const float* q, float* scratch, float* partials, std::atomic<int64_t>& next,
           float* out) const;

 private:
  void add_queries(const AttentionBatch& batch);
  void share_prefixes(const AttentionShape& shape, const AttentionBatch& batch, std::vector<int64_t> seqs,
                      int64_t span);
  void add_shared_items(const AttentionShape& shape, const AttentionBatch& batch,
                        const std::vector<int64_t>& seqs, int64_t span);
  void add_items(const AttentionShape& shape, const AttentionBatch& batch, int64_t seq);
  void cut_long_items(const AttentionShape& shape, int num_threads);
  void add_pieces(const AttentionShape& shape, AttentionItem item);
  void make_partial(const AttentionShape& shape, AttentionQuery& query);

  std::vector<AttentionQuery> queries_;  // the step's tokens in order, then copies for shared items
  std::vector<AttentionItem> items_;     // what workers take, costly ones first
  std::vector<int64_t> shared_spans_;    // [S] the first spans of each sequence that shared items cover
  std::vector<int64_t> merges_;          // queries whose partial results are to be folded
  int64_t partials_size_ = 0;
};

}  // namespace picert::cpu
