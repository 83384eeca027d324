#include "sched/step_scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "check.h"

namespace picert::sched {
namespace {

void expect(bool ok, const std::string& what) {
  if (!ok) throw std::logic_error("step scheduler: " + what);
}

int32_t checked_table_width(const SchedulerLimits& limits) {
  PICERT_CHECK(limits.block_size >= 1, "block_size is ", limits.block_size, ", must be at least 1");
  PICERT_CHECK(limits.max_model_len >= 1, "max_model_len is ", limits.max_model_len, ", must be at least 1");
  PICERT_CHECK(limits.max_num_seqs >= 1, "max_num_seqs is ", limits.max_num_seqs, ", must be at least 1");
  PICERT_CHECK(limits.max_num_batched_tokens >= limits.max_num_seqs, "max_num_batched_tokens is ",
               limits.max_num_batched_tokens, ", must be at least max_num_seqs, ", limits.max_num_seqs,
               ", so that every running sequence advances in each step");
  PICERT_CHECK(limits.chunked_prefill || limits.max_num_batched_tokens >= limits.max_model_len,
               "max_num_batched_tokens is ", limits.max_num_batched_tokens,
               ", must be at least max_model_len, ", limits.max_model_len, ", without chunked prefill");
  return (limits.max_model_len - 1) / limits.block_size + 1;
}

}  // namespace

StepScheduler::StepScheduler(const SchedulerLimits& limits)
    : limits_(limits),
      table_width_(checked_table_width(limits)),
      pool_(limits.num_blocks, limits.block_size) {
  const size_t seqs = limits.max_num_seqs;
  const size_t tokens = limits.max_num_batched_tokens;
  step_.seq_ids.resize(seqs);
  for (auto* array : {&step_.token_ids, &step_.positions, &step_.slot_mapping}) array->resize(tokens);
  for (auto* array : {&step_.context_lens, &step_.logits_indices, &step_.sample_rows}) array->resize(seqs);
  step_.query_start.resize(seqs + 1);
  step_.block_tables.resize(seqs * table_width_);
  row_admission_.resize(seqs);
  row_len_.resize(seqs);
  running_.reserve(seqs + 1);
  matched_.reserve(table_width_);
}

void StepScheduler::add(SeqId id, std::vector<Token> prompt, int32_t max_len, int32_t priority, uint64_t salt,
                        ReadLimits read) {
  const auto num_prompt = static_cast<int64_t>(prompt.size());
  PICERT_CHECK(num_prompt >= 1, "the prompt of sequence ", id, " is empty");
  const Token least = *std::min_element(prompt.begin(), prompt.end());
  PICERT_CHECK(least >= 0, "the prompt of sequence ", id, " holds token ", least, ", ids start at 0");
  PICERT_CHECK(num_prompt <= max_len, "max_len is ", max_len, ", the prompt alone has ", num_prompt,
               " tokens");
  PICERT_CHECK(max_len <= limits_.max_model_len, "max_len is ", max_len, ", must be at most max_model_len, ",
               limits_.max_model_len);
  PICERT_CHECK(blocks_for(max_len) <= limits_.num_blocks, "a sequence of ", max_len,
               " tokens never fits the ", limits_.num_blocks, " blocks of ", limits_.block_size, " tokens");
  PICERT_CHECK(salt < uint64_t{1} << 63, "salt is ", salt, ", must be below 2^63");
  PICERT_CHECK(read.max_cached >= 0, "max_cached is ", read.max_cached, ", must be at least 0");
  PICERT_CHECK(read.max_chunk >= 1, "max_chunk is ", read.max_chunk, ", must be at least 1");
  PICERT_CHECK(sequences_.count(id) == 0, "sequence ", id, " exists already");
  auto seq = std::make_unique<Sequence>();
  seq->id = id;
  seq->priority = priority;
  seq->arrival = next_arrival_++;
  seq->salt = salt;
  seq->max_len = max_len;
  seq->read = read;
  seq->tokens = std::move(prompt);
  seq->tokens.reserve(max_len);
  seq->blocks.reserve(blocks_for(max_len));
  wait(*seq);
  sequences_.emplace(id, std::move(seq));
}

bool StepScheduler::remove(SeqId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return false;
  Sequence& seq = *found->second;
  auto& list = seq.admission == 0 ? waiting_ : running_;
  list.erase(std::find(list.begin(), list.end(), &seq));
  leave(seq);
  sequences_.erase(found);
  return true;
}

void StepScheduler::append(SeqId id, Token token) {
  PICERT_CHECK(token >= 0, "the token for sequence ", id, " is ", token, ", ids start at 0");
  Sequence& seq = at(id);
  if (!seq.has_reserved()) return push(seq, token);
  seq.tokens.back() = token;
  if (seq.admission != 0) publish_full_blocks(seq);
}

void StepScheduler::reserve(SeqId id, int32_t row) {
  PICERT_CHECK(row >= 0, "the row of sequence ", id, " is ", row, ", must be at least 0");
  Sequence& seq = at(id);
  PICERT_CHECK(!seq.has_reserved(), "sequence ", id, " has a place reserved already");
  push(seq, -1 - row);
}

void StepScheduler::push(Sequence& seq, Token token) {
  PICERT_CHECK(seq.admission != 0 && seq.num_left() == 0, "sequence ", seq.id,
               " has tokens that are not computed yet");
  PICERT_CHECK(static_cast<int32_t>(seq.tokens.size()) < seq.max_len, "sequence ", seq.id,
               " is full: it holds its ", seq.max_len, " tokens");
  seq.tokens.push_back(token);
}

const Step& StepScheduler::schedule() {
  step_.num_seqs = step_.num_tokens = step_.num_logits = 0;
  step_.query_start[0] = 0;
  budget_ = limits_.max_num_batched_tokens;
  preempted_ = false;
  plan_running(/*decodes=*/true);
  plan_running(/*decodes=*/false);
  emit_running();
  if (!preempted_) admit_waiting();
  return step_;
}

int32_t StepScheduler::num_cached_tokens(SeqId id) const { return std::max(at(id).num_cached, 0); }

StepScheduler::Sequence& StepScheduler::at(SeqId id) const {
  const auto found = sequences_.find(id);
  PICERT_CHECK(found != sequences_.end(), "sequence ", id, " does not exist");
  return *found->second;
}

// Into the queue, at the place of its priority and arrival.
void StepScheduler::wait(Sequence& seq) {
  const auto later = [](const Sequence* a, const Sequence* b) { return b->before(*a); };
  waiting_.insert(std::lower_bound(waiting_.begin(), waiting_.end(), &seq, later), &seq);
}

// Give up all blocks, the last first, so that of a cached prefix the end is evicted before the beginning.
void StepScheduler::leave(Sequence& seq) {
  for (auto block = seq.blocks.rbegin(); block != seq.blocks.rend(); ++block) pool_.release(*block);
  seq.blocks.clear();
  seq.num_computed = seq.num_published = seq.num_planned = 0;
  seq.admission = 0;
}

// Tokens of the `num_left` that the step has place for.
int32_t StepScheduler::chunk(const Sequence& seq, int32_t num_left) const {
  const int32_t most = limits_.chunked_prefill ? std::min(budget_, seq.read.max_chunk) : budget_;
  return std::min(num_left, most);
}

// Plans only: a planned sequence can still be preempted by an earlier one, so nothing is published before
// emit.
void StepScheduler::plan_running(bool decodes) {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& seq = *running_[i];
    const int32_t left = seq.num_left();
    const int32_t num_new = chunk(seq, left);
    if (seq.num_planned > 0 || num_new == 0 || (left == 1) != decodes) continue;
    if (!make_room(seq, num_new)) return;
    seq.num_planned = num_new;
    budget_ -= num_new;
  }
}

// Blocks for `num_new` more tokens, from whoever is last. False if that is the sequence itself: it waits
// again.
bool StepScheduler::make_room(Sequence& seq, int32_t num_new) {
  const int32_t needed = blocks_for(seq.num_computed + num_new) - static_cast<int32_t>(seq.blocks.size());
  while (pool_.num_free() < needed) {
    Sequence& last = *running_.back();
    preempt(last);
    if (&last == &seq) return false;
  }
  extend(seq, seq.num_computed + num_new);
  return true;
}

void StepScheduler::preempt(Sequence& seq) {
  budget_ += seq.num_planned;
  running_.pop_back();
  leave(seq);
  wait(seq);
  preempted_ = true;
  ++counters_.preemptions;
}

void StepScheduler::emit_running() {
  for (const bool decodes : {true, false}) {
    for (Sequence* seq : running_) {
      if (seq->num_planned > 0 && (seq->num_left() == 1) == decodes) emit(*seq);
    }
  }
}

void StepScheduler::admit_waiting() {
  while (!waiting_.empty() && num_running() < limits_.max_num_seqs && budget_ > 0) {
    Sequence& seq = *waiting_.back();
    if (!try_admit(seq)) return;
    emit(seq);
  }
}

// Admitted only if all of its tokens fit, with one block to spare for each running sequence: what they need
// next. Otherwise the newcomer would be preempted at once by those it squeezed.
bool StepScheduler::try_admit(Sequence& seq) {
  PICERT_CHECK(!seq.has_reserved(), "sequence ", seq.id, " waits and its last token is not appended yet");
  match_prefix(seq);
  const auto num_tokens = static_cast<int32_t>(seq.tokens.size());
  const int32_t num_cached = static_cast<int32_t>(matched_.size()) * limits_.block_size;
  const int32_t num_new = chunk(seq, num_tokens - num_cached);
  if (!limits_.chunked_prefill && num_new < num_tokens - num_cached) return false;
  const auto is_free = [this](BlockId block) { return pool_.references(block) == 0; };
  const auto revived = static_cast<int32_t>(std::count_if(matched_.begin(), matched_.end(), is_free));
  const int32_t needed = blocks_for(num_tokens) - static_cast<int32_t>(matched_.size()) + revived;
  if (pool_.num_free() < needed + num_running()) return false;
  take_matched(seq);
  extend(seq, num_cached + num_new);
  seq.num_planned = num_new;
  budget_ -= num_new;
  waiting_.pop_back();
  const auto earlier = [](const Sequence* a, const Sequence* b) { return a->before(*b); };
  running_.insert(std::lower_bound(running_.begin(), running_.end(), &seq, earlier), &seq);
  return true;
}

// matched_ = the published blocks that the sequence begins with; at least one token is left to compute.
void StepScheduler::match_prefix(const Sequence& seq) {
  matched_.clear();
  if (!limits_.prefix_caching) return;
  PrefixId prefix = root_prefix(seq.salt);
  const size_t most =
      std::min(seq.tokens.size() - 1, static_cast<size_t>(seq.read.max_cached)) / limits_.block_size;
  while (matched_.size() < most) {
    const BlockId block = pool_.find(prefix, &seq.tokens[matched_.size() * limits_.block_size]);
    if (block == kNoBlock) return;
    matched_.push_back(block);
    prefix = pool_.prefix_of(block);
  }
}

void StepScheduler::take_matched(Sequence& seq) {
  for (const BlockId block : matched_) pool_.acquire(block);
  seq.blocks.assign(matched_.begin(), matched_.end());
  seq.num_published = static_cast<int32_t>(matched_.size());
  seq.num_computed = seq.num_published * limits_.block_size;
  seq.prefix = matched_.empty() ? root_prefix(seq.salt) : pool_.prefix_of(matched_.back());
  seq.admission = next_admission_++;
  if (seq.num_cached >= 0) return;
  seq.num_cached = seq.num_computed;
  counters_.prefix_queried_tokens += static_cast<int64_t>(seq.tokens.size());
  counters_.prefix_hit_tokens += seq.num_computed;
}

void StepScheduler::extend(Sequence& seq, int32_t num_tokens) {
  while (static_cast<int32_t>(seq.blocks.size()) < blocks_for(num_tokens))
    seq.blocks.push_back(pool_.allocate());
}

void StepScheduler::emit(Sequence& seq) {
  const int32_t row = step_.num_seqs++;
  for (int32_t i = 0; i < seq.num_planned; ++i) {
    const int32_t position = seq.num_computed + i;
    const int32_t t = step_.num_tokens++;
    step_.token_ids[t] = seq.tokens[position];
    step_.positions[t] = position;
    step_.slot_mapping[t] =
        seq.blocks[position / limits_.block_size] * limits_.block_size + position % limits_.block_size;
  }
  seq.num_computed += seq.num_planned;
  seq.num_planned = 0;
  step_.seq_ids[row] = seq.id;
  step_.query_start[row + 1] = step_.num_tokens;
  step_.context_lens[row] = seq.num_computed;
  copy_table(row, seq);
  if (seq.num_left() == 0) {
    step_.logits_indices[step_.num_logits] = step_.num_tokens - 1;
    step_.sample_rows[step_.num_logits++] = row;
  }
  publish_full_blocks(seq);
}

void StepScheduler::copy_table(int32_t row, const Sequence& seq) {
  const auto len = static_cast<int32_t>(seq.blocks.size());
  int32_t* out = &step_.block_tables[static_cast<size_t>(row) * table_width_];
  if (row_admission_[row] != seq.admission) {
    std::fill(out + std::min(len, row_len_[row]), out + row_len_[row], 0);
    row_len_[row] = 0;
  }
  std::copy(seq.blocks.begin() + row_len_[row], seq.blocks.end(), out + row_len_[row]);
  row_len_[row] = len;
  row_admission_[row] = seq.admission;
}

// Already at schedule time, so that sequences of one step share: every layer stores the K/V of all tokens of
// the step before any of them attends. A block that ends with a reserved place has no content to be found by:
// `append` publishes it.
void StepScheduler::publish_full_blocks(Sequence& seq) {
  if (!limits_.prefix_caching) return;
  const auto num_known = static_cast<int32_t>(seq.tokens.size()) - (seq.has_reserved() ? 1 : 0);
  const int32_t num_tokens = std::min(seq.num_computed, num_known);
  for (; (seq.num_published + 1) * limits_.block_size <= num_tokens; ++seq.num_published) {
    const Token* tokens = &seq.tokens[static_cast<size_t>(seq.num_published) * limits_.block_size];
    seq.prefix = pool_.publish(seq.blocks[seq.num_published], seq.prefix, tokens);
  }
}

void StepScheduler::self_check() const {
  pool_.self_check();
  expect(sequences_.size() == running_.size() + waiting_.size(), "a sequence is neither running nor waiting");
  expect(num_running() <= limits_.max_num_seqs, "too many sequences run");
  const auto in_order = [](const Sequence* a, const Sequence* b) { return a->before(*b); };
  expect(std::is_sorted(running_.begin(), running_.end(), in_order), "running sequences are out of order");
  expect(std::is_sorted(waiting_.rbegin(), waiting_.rend(), in_order), "waiting sequences are out of order");
  for (const Sequence* seq : waiting_) {
    expect(sequences_.at(seq->id).get() == seq && seq->admission == 0,
           "a waiting sequence is not the known one");
    expect(seq->blocks.empty() && seq->num_computed == 0, "a waiting sequence holds blocks");
  }
  std::vector<int32_t> references(pool_.num_blocks(), 0);
  for (const Sequence* seq : running_) {
    expect(sequences_.at(seq->id).get() == seq && seq->admission != 0,
           "a running sequence is not the known one");
    expect(seq->num_left() >= 0 && seq->num_planned == 0, "a sequence has computed more than it has");
    expect(static_cast<int32_t>(seq->blocks.size()) == blocks_for(seq->num_computed),
           "a sequence holds blocks that it does not need");
    for (const BlockId block : seq->blocks) ++references[block];
  }
  for (BlockId block = 0; block < pool_.num_blocks(); ++block) {
    expect(references[block] == pool_.references(block), "a block's references do not match the tables");
  }
}

}  // namespace picert::sched
