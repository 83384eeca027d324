// edge_account.h: one edge as the dispatcher accounts for it: its places, its memory, its speed, and when
// what runs there is predicted to end.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace picert::sched {

using JobId = int64_t;

// How fast an edge is: seconds of one exchange with it, seconds to read a token, and seconds of a decoding
// step by batch size (ascending; straight lines between, the end's value beyond).
struct EdgeSpeed {
  double link_s;
  double read_s;
  std::vector<std::pair<int32_t, double>> step_s;
};

struct JobSize {
  int32_t prompt_tokens;  // to read at an edge that has not seen the request
  int32_t tail_tokens;    // of those, the job's own
  int32_t tokens;         // predicted length of its text
  int64_t kv_tokens;      // memory to keep for it
};

class EdgeAccount {
 public:
  EdgeAccount() = default;  // of no edge: without places
  // Throws std::invalid_argument for numbers that cannot be true.
  EdgeAccount(int32_t slots, int64_t kv_tokens, const EdgeSpeed& speed);

  void set_speed(const EdgeSpeed& speed);
  void start(JobId id, const JobSize& size, int32_t to_read, int64_t pull, double now);
  void stop(JobId id, const JobSize& size);
  // The job will have `left` more tokens.
  void recount(JobId id, int32_t left, double now);

  bool exists() const { return slots_ > 0; }
  bool has_place() const { return is_available && num_running() < slots_; }
  bool fits(const JobSize& size) const { return running_.empty() || kv_held_ + size.kv_tokens <= kv_tokens_; }
  int32_t slots() const { return slots_; }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int64_t last_used() const { return last_used_; }  // number of the pull

  // Seconds from now until a job would be done that starts now, beside what runs.
  double finish_s(const JobSize& size, int32_t to_read, double now) const;
  // The same for a job from its start, with every place taken and its whole prompt to read.
  double full_s(const JobSize& size) const {
    return size.prompt_tokens * speed_.read_s + size.tokens * full_step_s_;
  }
  double link_s() const { return speed_.link_s; }
  double one_step_s() const { return speed_.step_s.front().second; }  // of a job alone
  // Tokens that all places together write in a second.
  double tokens_per_s() const { return slots_ / full_step_s_; }
  // Seconds until what runs is done, as a mean over the places. What is overdue is taken to need as much
  // again as it is late.
  double running_s(double now) const;
  // Seconds until a place is free.
  double free_in_s(double now) const;

  std::vector<JobId> running() const;
  // Throws std::logic_error unless recomputing gives what is kept; `kv_held` is the sum of its jobs.
  void self_check(int64_t kv_held) const;

  bool is_available = false;  // may it be given jobs

 private:
  struct Running {
    JobId id;
    double finish;  // predicted
  };

  double step_s(int32_t batch) const;
  void refresh();

  int32_t slots_ = 0;
  int64_t kv_tokens_ = 0;
  int64_t kv_held_ = 0;
  double next_step_s_ = 0.0;  // with one sequence more
  double full_step_s_ = 0.0;  // with every place taken
  double reads_until_ = 0.0;  // when all prompts are read, as predicted
  double sum_finish_ = 0.0;   // of running_
  double first_finish_ = 0.0;
  int64_t last_used_ = 0;
  std::vector<Running> running_;
  EdgeSpeed speed_;
};

}  // namespace picert::sched
