// attention_plan.cpp: cutting the attention of a step into items for the workers.
#include <algorithm>
#include <numeric>
#include <vector>

#include "check.h"
#include "cpu/attention.h"

namespace picert::cpu {
namespace {

// Below this many items per worker, those of long contexts are cut into groups of spans.
constexpr int64_t kItemsPerWorker = 8;

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

// The blocks that hold the positions of `span`, of one sequence.
struct Blocks {
  const int32_t *begin, *end;
};

Blocks blocks_of(const AttentionBatch& batch, int64_t block_size, int64_t seq, int64_t span) {
  const int32_t* table = batch.block_tables + seq * batch.max_blocks;
  return {table + span * kSpan / block_size, table + ((span + 1) * kSpan + block_size - 1) / block_size};
}

// Spans that every query of a decoding sequence sees whole; others are not shared: with their many rows they
// use what they read often enough.
int64_t num_sharable_spans(const AttentionBatch& batch, int64_t seq) {
  const bool is_decode = batch.query_start[seq + 1] - batch.query_start[seq] == 1;
  return is_decode ? batch.context_lens[seq] / kSpan : 0;
}

int64_t cost(const AttentionItem& item, const std::vector<AttentionQuery>& queries) {
  const int64_t context = queries[static_cast<size_t>(item.first_query + item.num_queries - 1)].position + 1;
  return item.num_queries * (std::min(context, item.span_end * kSpan) - item.span_begin * kSpan);
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

void AttentionPlan::build(const AttentionShape& shape, const AttentionBatch& batch, int num_threads) {
  items_.clear();
  merges_.clear();
  partials_size_ = 0;
  add_queries(batch);
  shared_spans_.assign(static_cast<size_t>(batch.num_seqs), 0);
  std::vector<int64_t> everyone(static_cast<size_t>(batch.num_seqs));
  std::iota(everyone.begin(), everyone.end(), 0);
  share_prefixes(shape, batch, everyone, 0);
  for (int64_t seq = 0; seq < batch.num_seqs; seq++) add_items(shape, batch, seq);
  if (num_threads > 1) cut_long_items(shape, num_threads);
  for (int64_t i = 0; i < batch.query_start[batch.num_seqs]; i++) {
    if (queries_[static_cast<size_t>(i)].partial >= 0) merges_.push_back(i);
  }
  // Costly ones first, so that the last to be taken are short and all workers end together.
  std::stable_sort(items_.begin(), items_.end(), [&](const AttentionItem& a, const AttentionItem& b) {
    return cost(a, queries_) > cost(b, queries_);
  });
}

void AttentionPlan::add_queries(const AttentionBatch& batch) {
  queries_.clear();
  for (int64_t seq = 0; seq < batch.num_seqs; seq++) {
    const int32_t begin = batch.query_start[seq], end = batch.query_start[seq + 1];
    for (int32_t row = begin; row < end; row++) {
      queries_.push_back({row, batch.context_lens[seq] - (end - row), -1});
    }
  }
}

// `seqs` agree on all spans before `span`: items for those among them that agree on this one too, and so on.
void AttentionPlan::share_prefixes(const AttentionShape& shape, const AttentionBatch& batch,
                                   std::vector<int64_t> seqs, int64_t span) {
  const auto ends = [&](int64_t seq) { return num_sharable_spans(batch, seq) <= span; };
  seqs.erase(std::remove_if(seqs.begin(), seqs.end(), ends), seqs.end());
  const auto before = [&](int64_t a, int64_t b) {
    const Blocks x = blocks_of(batch, shape.block_size, a, span);
    const Blocks y = blocks_of(batch, shape.block_size, b, span);
    return std::lexicographical_compare(x.begin, x.end, y.begin, y.end);
  };
  std::stable_sort(seqs.begin(), seqs.end(), before);
  for (auto first = seqs.begin(); first != seqs.end();) {
    const auto last = std::upper_bound(first, seqs.end(), *first, before);
    if (last - first > 1) {
      const std::vector<int64_t> group(first, last);
      add_shared_items(shape, batch, group, span);
      share_prefixes(shape, batch, group, span + 1);
    }
    first = last;
  }
}

// One item for each kv head and each handful of the sequences' queries.
void AttentionPlan::add_shared_items(const AttentionShape& shape, const AttentionBatch& batch,
                                     const std::vector<int64_t>& seqs, int64_t span) {
  AttentionItem item{};
  item.block_table = batch.block_tables + seqs[0] * batch.max_blocks;
  item.first_query = static_cast<int64_t>(queries_.size());
  item.num_queries = static_cast<int64_t>(seqs.size());
  item.span_begin = span;
  item.span_end = span + 1;
  item.is_partial = true;
  for (const int64_t seq : seqs) {
    shared_spans_[static_cast<size_t>(seq)] = span + 1;
    const auto query = static_cast<size_t>(batch.query_start[seq]);
    make_partial(shape, queries_[query]);
    queries_.push_back(queries_[query]);
  }
  add_pieces(shape, item);
}

// The spans that the sequence shares with nobody.
void AttentionPlan::add_items(const AttentionShape& shape, const AttentionBatch& batch, int64_t seq) {
  AttentionItem item{};
  item.block_table = batch.block_tables + seq * batch.max_blocks;
  item.first_query = batch.query_start[seq];
  item.num_queries = batch.query_start[seq + 1] - batch.query_start[seq];
  item.span_begin = shared_spans_[static_cast<size_t>(seq)];
  item.is_partial = item.span_begin > 0;
  add_pieces(shape, item);
}

// `item`, cut into items of queries_per_item() for each kv head.
void AttentionPlan::add_pieces(const AttentionShape& shape, AttentionItem item) {
  const int64_t end = item.first_query + item.num_queries, step = queries_per_item(shape);
  const bool is_shared = item.span_end > 0;
  for (; item.first_query < end; item.first_query += step) {
    item.num_queries = std::min(step, end - item.first_query);
    const AttentionQuery& last = queries_[static_cast<size_t>(item.first_query + item.num_queries - 1)];
    if (!is_shared) item.span_end = num_spans(last.position);
    if (item.span_begin == item.span_end) continue;  // a context that ends with what is shared
    for (item.kv_head = 0; item.kv_head < shape.num_kv_heads; item.kv_head++) items_.push_back(item);
  }
}

// Room for the query's partial results.
void AttentionPlan::make_partial(const AttentionShape& shape, AttentionQuery& query) {
  if (query.partial >= 0) return;
  query.partial = partials_size_;
  partials_size_ += num_spans(query.position) * shape.num_kv_heads * partial_floats(shape, group_size(shape));
}

// Cut items of several spans so that there is work for all.
void AttentionPlan::cut_long_items(const AttentionShape& shape, int num_threads) {
  const auto num_items = static_cast<int64_t>(items_.size()), wanted = kItemsPerWorker * num_threads;
  if (num_items >= wanted) return;
  const int64_t pieces = (wanted + num_items - 1) / num_items;
  for (int64_t i = 0; i < num_items; i++) {
    const AttentionItem whole = items_[static_cast<size_t>(i)];
    const int64_t spans = whole.span_end - whole.span_begin, step = (spans + pieces - 1) / pieces;
    if (step == spans) continue;
    for (int64_t j = 0; j < whole.num_queries; j++) {
      make_partial(shape, queries_[static_cast<size_t>(whole.first_query + j)]);
    }
    for (int64_t begin = whole.span_begin; begin < whole.span_end; begin += step) {
      AttentionItem piece = whole;
      piece.is_partial = true;
      piece.span_begin = begin;
      piece.span_end = std::min(begin + step, whole.span_end);
      if (begin == whole.span_begin) {
        items_[static_cast<size_t>(i)] = piece;
      } else {
        items_.push_back(piece);
      }
    }
  }
}

void AttentionPlan::run(const Worker& worker, const AttentionKernels& kernels, const AttentionShape& shape,
                        const KvPages& pages, const float* q, float* scratch, float* partials,
                        std::atomic<int64_t>& next, float* out) const {
  const auto num_items = static_cast<int64_t>(items_.size());
  for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < num_items;
       i = next.fetch_add(1, std::memory_order_relaxed)) {
    kernels.attend(shape, pages, queries_.data(), items_[static_cast<size_t>(i)], q, scratch, partials, out);
  }
  if (merges_.empty()) return;
  worker.sync();
  const auto [begin, end] = worker.share(static_cast<int64_t>(merges_.size()));
  for (int64_t i = begin; i < end; i++) {
    const auto query = static_cast<size_t>(merges_[static_cast<size_t>(i)]);
    kernels.merge(shape, queries_[query], scratch, partials, out);
  }
}

}  // namespace picert::cpu
