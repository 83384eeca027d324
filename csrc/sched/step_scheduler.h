// step_scheduler.h: which tokens of which sequences the next step computes, and where their K/V lies.
//
// It holds the token ids of every live sequence, fills the step's flat int32 arrays and owns the BlockPool.
// It knows no model, text or clock. One thread at a time. Rules, in this order:
//   1. running sequences go on, those with one token to compute (decodes) first, then unfinished prompts,
//   each in
//      order of (priority, arrival), under a budget of tokens;
//   2. where blocks run out, the running sequence that is last in that order is preempted: it gives up its
//   blocks and
//      waits again, in its old place, to be recomputed;
//   3. unless somebody was preempted, waiting sequences are admitted in the same order while tokens, places
//   and blocks
//      last. Nobody overtakes the first that does not fit.
// Every accepted sequence fits alone, so the first running one always advances.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sched/block_pool.h"

namespace picert::sched {

using SeqId = int64_t;

struct SchedulerLimits {
  int32_t num_blocks;
  int32_t block_size;
  int32_t max_num_seqs;            // running at once
  int32_t max_num_batched_tokens;  // of one step; at least max_num_seqs
  int32_t max_model_len;           // tokens of one sequence
  bool prefix_caching;
  bool chunked_prefill;  // false: a prompt is one step's, and the budget must be at least max_model_len
};

// One step: T tokens of S sequences, L of which need logits. Arrays have their largest size; the step's part
// is the first S, T or L entries. Valid until the next schedule().
struct Step {
  int32_t num_seqs = 0;                 // S
  int32_t num_tokens = 0;               // T
  int32_t num_logits = 0;               // L
  std::vector<SeqId> seq_ids;           // [S]
  std::vector<int32_t> token_ids;       // [T]
  std::vector<int32_t> positions;       // [T]
  std::vector<int32_t> slot_mapping;    // [T] block * block_size + offset
  std::vector<int32_t> query_start;     // [S + 1]
  std::vector<int32_t> context_lens;    // [S] tokens in the cache after the step
  std::vector<int32_t> block_tables;    // [S, table_width] padded with 0
  std::vector<int32_t> logits_indices;  // [L] rows of T
  std::vector<int32_t> sample_rows;     // [L] rows of S
};

// How a sequence's tokens may be computed. Whoever wants the logits of a part of a prompt needs that part
// computed, not found in the cache, and not more of it in one step than there is memory for.
struct ReadLimits {
  int32_t max_cached = std::numeric_limits<int32_t>::max();  // tokens taken from the prefix cache
  int32_t max_chunk = std::numeric_limits<int32_t>::max();   // tokens of one step, if prompts are chunked
};

struct SchedulerCounters {
  int64_t preemptions = 0;
  int64_t prefix_queried_tokens = 0;  // of prompts, at their first admission
  int64_t prefix_hit_tokens = 0;      // of those, found in the cache
};

class StepScheduler {
 public:
  // Throws std::invalid_argument for limits that contradict each other.
  explicit StepScheduler(const SchedulerLimits& limits);

  // Queue a sequence that will never hold more than `max_len` tokens. Lower priorities go first. Sequences
  // share blocks only within one salt. Throws std::invalid_argument if the id is taken, the prompt empty or
  // one of its tokens negative, a limit no number of tokens or max_len does not fit the cache.
  void add(SeqId id, std::vector<Token> prompt, int32_t max_len, int32_t priority, uint64_t salt,
           ReadLimits read = {});

  // Forget a sequence, whatever its state; false if there is none.
  bool remove(SeqId id);

  // Add the token sampled for a sequence whose tokens have all been computed, or put it in the place reserved
  // for it.
  void append(SeqId id, Token token);

  // Keep a place for the token of a sequence whose tokens are all computed by a step that still runs. Until
  // `append` it is negative, -1 - row: whoever runs the next step finds it in that row of what this one
  // draws.
  void reserve(SeqId id, int32_t row);

  // Decide and fill the next step. Zero sequences means there is nothing to do.
  const Step& schedule();

  // Prompt tokens found in the cache at the first admission. Throws std::invalid_argument for an unknown id.
  int32_t num_cached_tokens(SeqId id) const;

  const Step& step() const { return step_; }
  const BlockPool& pool() const { return pool_; }
  const SchedulerLimits& limits() const { return limits_; }
  const SchedulerCounters& counters() const { return counters_; }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t table_width() const { return table_width_; }

  // Throws std::logic_error unless recomputing every list and count gives what is kept.
  void self_check() const;

 private:
  struct Sequence {
    SeqId id;
    int32_t priority;
    uint64_t arrival;
    uint64_t salt;
    int32_t max_len;
    ReadLimits read;
    std::vector<Token> tokens;    // capacity max_len
    std::vector<BlockId> blocks;  // capacity table_width
    int32_t num_computed = 0;     // tokens whose K/V is in the cache
    int32_t num_published = 0;    // full blocks whose prefix is known
    PrefixId prefix = 0;          // that of the last of them
    int32_t num_planned = 0;      // tokens in the step being built
    uint64_t admission = 0;       // 0: waiting; else a number that no other admission has
    int32_t num_cached = -1;      // at the first admission; -1: before it

    int32_t num_left() const { return static_cast<int32_t>(tokens.size()) - num_computed; }
    bool has_reserved() const { return tokens.back() < 0; }  // only the last can be
    bool before(const Sequence& other) const {
      return priority != other.priority ? priority < other.priority : arrival < other.arrival;
    }
  };

  int32_t blocks_for(int32_t num_tokens) const {
    return (num_tokens + limits_.block_size - 1) / limits_.block_size;
  }
  Sequence& at(SeqId id) const;
  void push(Sequence& seq, Token token);
  int32_t chunk(const Sequence& seq, int32_t num_left) const;
  void wait(Sequence& seq);
  void leave(Sequence& seq);
  void plan_running(bool decodes);
  bool make_room(Sequence& seq, int32_t num_new);
  void preempt(Sequence& seq);
  void emit_running();
  void admit_waiting();
  bool try_admit(Sequence& seq);
  void match_prefix(const Sequence& seq);
  void take_matched(Sequence& seq);
  void extend(Sequence& seq, int32_t num_tokens);
  void emit(Sequence& seq);
  void copy_table(int32_t row, const Sequence& seq);
  void publish_full_blocks(Sequence& seq);

  SchedulerLimits limits_;
  int32_t table_width_;
  BlockPool pool_;
  std::unordered_map<SeqId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> running_;  // first to last
  std::vector<Sequence*> waiting_;  // last to first, so that the next one is popped from the back
  uint64_t next_arrival_ = 0;
  uint64_t next_admission_ = 1;
  SchedulerCounters counters_;
  // Of the step being built.
  Step step_;
  int32_t budget_ = 0;
  bool preempted_ = false;
  std::vector<BlockId> matched_;
  // What each row of step_.block_tables holds, so that a row that only grew is not copied anew.
  std::vector<uint64_t> row_admission_;
  std::vector<int32_t> row_len_;
};

}  // namespace picert::sched
