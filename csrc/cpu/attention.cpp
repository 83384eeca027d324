// attention.cpp: the portable kernels, the choice of an instruction set, and the cutting of a step into
// items.
#include "cpu/attention.h"

#include <algorithm>

#include "check.h"
#include "cpu/vec_scalar.h"
//
#include "cpu/attention_body.h"

namespace picert::cpu {

const AttentionKernels scalar::kAttention = kFunctions;

const AttentionKernels& attention_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kAttention;
  if (isa == Isa::avx2) return avx2::kAttention;
#endif
  (void)isa;
  return scalar::kAttention;
}

namespace {

// Below this many items per worker, those of long contexts are cut into spans.
constexpr int64_t kItemsPerWorker = 4;

int64_t num_spans(const AttentionItem& item) {
  return (item.position + item.num_queries + kSpan - 1) / kSpan;
}

void add_items(const AttentionShape& shape, const AttentionBatch& batch, int64_t seq,
               std::vector<AttentionItem>& items) {
  const int64_t begin = batch.query_start[seq], end = batch.query_start[seq + 1];
  const int64_t step = queries_per_item(shape);
  for (int64_t row = begin; row < end; row += step) {
    AttentionItem item{};
    item.block_table = batch.block_tables + seq * batch.max_blocks;
    item.row = row;
    item.num_queries = std::min(step, end - row);
    item.position = batch.context_lens[seq] - (end - row);
    item.span_end = num_spans(item);
    item.partial = -1;
    for (item.kv_head = 0; item.kv_head < shape.num_kv_heads; item.kv_head++) items.push_back(item);
  }
}

void check_sequence(const AttentionBatch& batch, int64_t seq, int64_t num_tokens, int64_t num_blocks,
                    int64_t block_size) {
  const int64_t begin = batch.query_start[seq], end = batch.query_start[seq + 1];
  PICERT_CHECK(begin < end && end <= num_tokens, "query_start[", seq, "] is ", begin, " and the next ", end,
               ": it must rise, up to the number of tokens");
  const int64_t context = batch.context_lens[seq], room = batch.max_blocks * block_size;
  PICERT_CHECK(context >= end - begin && context <= room, "context_lens[", seq, "] is ", context,
               ", must be ", end - begin, " (its tokens of this step) to ", room,
               " (what its block table holds)");
  const int32_t* blocks = batch.block_tables + seq * batch.max_blocks;
  for (int64_t i = 0; i * block_size < context; i++) {
    PICERT_CHECK(blocks[i] >= 0 && blocks[i] < num_blocks, "block_tables[", seq, "][", i, "] is ", blocks[i],
                 ", must be 0 to ", num_blocks - 1);
  }
}

}  // namespace

void check_batch(const AttentionBatch& batch, int64_t num_tokens, int64_t num_blocks, int64_t block_size) {
  const int64_t first = batch.query_start[0], last = batch.query_start[batch.num_seqs];
  PICERT_CHECK(first == 0 && last == num_tokens, "query_start goes from ", first, " to ", last,
               ", must go from 0 to the number of tokens, ", num_tokens);
  for (int64_t seq = 0; seq < batch.num_seqs; seq++) {
    check_sequence(batch, seq, num_tokens, num_blocks, block_size);
  }
}

// Cut an item into its spans, each with room for its partial result from `partial` on.
void AttentionPlan::split(const AttentionShape& shape, AttentionItem item) {
  item.partial = partials_size_;
  split_.push_back(item);
  const int64_t floats = partial_floats(shape, item.num_queries * group_size(shape));
  for (int64_t span = split_.back().span_begin; span < split_.back().span_end; span++) {
    item.span_begin = span;
    item.span_end = span + 1;
    item.partial = partials_size_;
    items_.push_back(item);
    partials_size_ += floats;
  }
}

void AttentionPlan::build(const AttentionShape& shape, const AttentionBatch& batch, int num_threads) {
  items_.clear();
  split_.clear();
  partials_size_ = 0;
  std::vector<AttentionItem> whole;
  for (int64_t seq = 0; seq < batch.num_seqs; seq++) add_items(shape, batch, seq, whole);
  const bool few = num_threads > 1 && static_cast<int64_t>(whole.size()) < kItemsPerWorker * num_threads;
  for (const AttentionItem& item : whole) {
    if (few && item.span_end > 1) {
      split(shape, item);
    } else {
      items_.push_back(item);
    }
  }
  // Costly ones first, so that the last to be taken are short and all workers end together.
  const auto cost = [](const AttentionItem& item) {
    return item.num_queries * (item.position + item.num_queries - item.span_begin * kSpan);
  };
  std::stable_sort(items_.begin(), items_.end(),
                   [&](const AttentionItem& a, const AttentionItem& b) { return cost(a) > cost(b); });
}

void AttentionPlan::run(const Worker& worker, const AttentionKernels& kernels, const AttentionShape& shape,
                        const KvPages& pages, const float* q, float* scratch, float* partials,
                        std::atomic<int64_t>& next, float* out) const {
  const auto num_items = static_cast<int64_t>(items_.size());
  for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < num_items;
       i = next.fetch_add(1, std::memory_order_relaxed)) {
    kernels.attend(shape, pages, items_[static_cast<size_t>(i)], q, scratch, partials, out);
  }
  if (split_.empty()) return;
  worker.sync();
  const auto [begin, end] = worker.share(static_cast<int64_t>(split_.size()));
  for (int64_t i = begin; i < end; i++) {
    kernels.merge(shape, split_[static_cast<size_t>(i)], scratch, partials, out);
  }
}

}  // namespace picert::cpu
