// attention_plan_test.cpp: how a step is cut into items: each query sees each of its spans once, and blocks
// that sequences share are read once.
#include <algorithm>
#include <map>
#include <utility>

#include "cpu/attention.h"
#include "expect.h"

using namespace picert::cpu;

namespace {

constexpr int64_t kBlock = 16, kBlocksOfSpan = kSpan / kBlock;
constexpr AttentionShape kShape{6, 2, 32, kBlock, 0, 1.0f, 0.0f, KvFormat::fp16};

// A step's sequences; `shared` leading spans of each are those of sequence 0.
struct Steps {
  std::vector<int32_t> query_start{0}, context_lens, tables;
  int64_t max_blocks;
  int32_t next_block = 0;

  explicit Steps(int64_t longest) : max_blocks((longest + kBlock - 1) / kBlock) {}

  void add(int32_t context, int32_t queries, int64_t shared = 0) {
    query_start.push_back(query_start.back() + queries);
    context_lens.push_back(context);
    for (int64_t i = 0; i < max_blocks; i++) {
      const bool is_shared = i < shared * kBlocksOfSpan;
      tables.push_back(is_shared ? tables[static_cast<size_t>(i)] : next_block++);
    }
  }
  AttentionBatch batch() const {
    return {static_cast<int64_t>(context_lens.size()), max_blocks, query_start.data(), context_lens.data(),
            tables.data()};
  }
};

AttentionPlan plan_of(const Steps& steps, int threads) {
  AttentionPlan plan;
  plan.build(kShape, steps.batch(), threads);
  return plan;
}

// Passes over spans of one kv head: what is read from memory.
int64_t num_passes(const AttentionPlan& plan) {
  int64_t passes = 0;
  for (const AttentionItem& item : plan.items()) {
    if (item.kv_head == 0) passes += item.span_end - item.span_begin;
  }
  return passes;
}

void expect_every_span_once(const Steps& steps, int threads) {
  const AttentionPlan plan = plan_of(steps, threads);
  std::map<std::pair<int32_t, int64_t>, int> seen;  // of (row, span), over the kv heads
  for (const AttentionItem& item : plan.items()) {
    for (int64_t i = 0; i < item.num_queries; i++) {
      const AttentionQuery& query = plan.queries()[static_cast<size_t>(item.first_query + i)];
      for (int64_t s = item.span_begin; s < std::min(item.span_end, num_spans(query.position)); s++) {
        seen[{query.row, s}]++;
      }
      EXPECT(item.is_partial == (query.partial >= 0), "row %d", query.row);
    }
  }
  size_t wanted = 0;
  for (int32_t row = 0; row < steps.query_start.back(); row++) {
    wanted += static_cast<size_t>(num_spans(plan.queries()[static_cast<size_t>(row)].position));
  }
  EXPECT(seen.size() == wanted, "%d pairs, wanted %d", int(seen.size()), int(wanted));
  for (const auto& [key, count] : seen) {
    EXPECT(count == kShape.num_kv_heads, "row %d span %d: %d", key.first, int(key.second), count);
  }
}

void every_query_sees_each_of_its_spans_once() {
  Steps steps(9 * kSpan);
  steps.add(4 * kSpan + 3, 1);
  steps.add(4 * kSpan, 1, 4);  // ends with what it shares
  steps.add(7 * kSpan, 1, 2);
  steps.add(2 * kSpan + 1, 1, 1);
  steps.add(5 * kSpan, 40, 2);  // a prompt over the same prefix
  steps.add(3, 3);
  steps.add(8 * kSpan + 70, 1);
  for (const int threads : {1, 2, 7}) expect_every_span_once(steps, threads);
}

void sequences_that_share_a_prefix_read_it_once() {
  Steps steps(6 * kSpan);
  for (int i = 0; i < 16; i++) steps.add(5 * kSpan, 1, i > 0 ? 4 : 0);
  EXPECT(num_passes(plan_of(steps, 1)) == 4 + 16, "%d", int(num_passes(plan_of(steps, 1))));
}

void more_rows_than_an_item_holds_read_a_prefix_again() {
  Steps steps(2 * kSpan);
  for (int i = 0; i < 17; i++) steps.add(kSpan + 1, 1, i > 0 ? 1 : 0);  // 16 queries x 3 heads are 48 rows
  EXPECT(num_passes(plan_of(steps, 1)) == 2 + 17, "%d", int(num_passes(plan_of(steps, 1))));
}

void prefixes_of_prefixes_are_shared_as_far_as_they_go() {
  Steps steps(4 * kSpan);
  steps.add(3 * kSpan + 1, 1);
  steps.add(3 * kSpan + 1, 1, 3);
  steps.add(3 * kSpan + 1, 1, 1);
  EXPECT(num_passes(plan_of(steps, 1)) == 3 + 3 + 2, "%d", int(num_passes(plan_of(steps, 1))));
}

void unrelated_sequences_are_finished_in_one_go() {
  Steps steps(4 * kSpan);
  for (int i = 0; i < 16; i++) steps.add(3 * kSpan, 1);
  EXPECT(plan_of(steps, 2).partials_size() == 0, "partial results were asked for");
}

void long_contexts_are_cut_for_several_threads_alone() {
  Steps steps(16 * kSpan);
  steps.add(16 * kSpan, 1);
  EXPECT(plan_of(steps, 1).items().size() == 2, "%d", int(plan_of(steps, 1).items().size()));
  EXPECT(plan_of(steps, 2).items().size() >= 8, "%d", int(plan_of(steps, 2).items().size()));
}

}  // namespace

int main(int argc, char** argv) {
  return run_case(
      {{"every_query_sees_each_of_its_spans_once", every_query_sees_each_of_its_spans_once},
       {"sequences_that_share_a_prefix_read_it_once", sequences_that_share_a_prefix_read_it_once},
       {"more_rows_than_an_item_holds_read_a_prefix_again", more_rows_than_an_item_holds_read_a_prefix_again},
       {"prefixes_of_prefixes_are_shared_as_far_as_they_go",
        prefixes_of_prefixes_are_shared_as_far_as_they_go},
       {"unrelated_sequences_are_finished_in_one_go", unrelated_sequences_are_finished_in_one_go},
       {"long_contexts_are_cut_for_several_threads_alone", long_contexts_are_cut_for_several_threads_alone}},
      argc, argv);
}
