#include "sched/edge_account.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

#include "check.h"

namespace picert::sched {
namespace {

void expect(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("edge account: ") + what);
}

void check_speed(const EdgeSpeed& speed) {
  PICERT_CHECK(std::isfinite(speed.link_s) && speed.link_s >= 0, "link_s is ", speed.link_s,
               ", must be 0 or more");
  PICERT_CHECK(std::isfinite(speed.read_s) && speed.read_s >= 0, "read_s is ", speed.read_s,
               ", must be 0 or more");
  PICERT_CHECK(!speed.step_s.empty(), "step_s is empty, must tell at least one batch size");
  int32_t before = 0;
  for (const auto& [batch, seconds] : speed.step_s) {
    PICERT_CHECK(batch > before, "step_s has batch size ", batch, " after ", before, ", must ascend from 1");
    PICERT_CHECK(std::isfinite(seconds) && seconds > 0, "step_s has ", seconds, " seconds, must be over 0");
    before = batch;
  }
}

}  // namespace

EdgeAccount::EdgeAccount(int32_t slots, int64_t kv_tokens, const EdgeSpeed& speed)
    : is_available(true), slots_(slots), kv_tokens_(kv_tokens) {
  PICERT_CHECK(slots >= 1, "slots is ", slots, ", must be at least 1");
  PICERT_CHECK(kv_tokens >= 0, "kv_tokens is ", kv_tokens, ", must be 0 or more");
  set_speed(speed);
}

void EdgeAccount::set_speed(const EdgeSpeed& speed) {
  check_speed(speed);
  speed_ = speed;
  refresh();
}

void EdgeAccount::start(JobId id, const JobSize& size, int32_t to_read, int64_t pull, double now) {
  running_.push_back({id, now + finish_s(size, to_read, now)});
  kv_held_ += size.kv_tokens;
  last_used_ = pull;
  refresh();
  reads_until_ = std::max(reads_until_, now) + to_read * speed_.read_s;
}

void EdgeAccount::stop(JobId id, const JobSize& size) {
  const auto is_it = [id](const Running& running) { return running.id == id; };
  running_.erase(std::find_if(running_.begin(), running_.end(), is_it));
  kv_held_ -= size.kv_tokens;
  refresh();
}

void EdgeAccount::recount(JobId id, int32_t left, double now) {
  const double finish = now + left * step_s(num_running());
  for (Running& running : running_) {
    if (running.id == id) running.finish = finish;
  }
  refresh();
}

double EdgeAccount::finish_s(const JobSize& size, int32_t to_read, double now) const {
  const double reading = std::max(0.0, reads_until_ - now) + to_read * speed_.read_s;
  return speed_.link_s + reading + size.tokens * next_step_s_;
}

double EdgeAccount::running_s(double now) const {
  double sum = sum_finish_ - num_running() * now;
  if (now > first_finish_) {
    sum = 0.0;
    for (const Running& running : running_) sum += std::abs(running.finish - now);
  }
  return sum / slots_;
}

double EdgeAccount::free_in_s(double now) const {
  return num_running() < slots_ ? 0.0 : std::abs(first_finish_ - now);
}

std::vector<JobId> EdgeAccount::running() const {
  std::vector<JobId> ids;
  for (const Running& running : running_) ids.push_back(running.id);
  return ids;
}

// Seconds of a step with `batch` sequences: on the straight line between two known sizes.
double EdgeAccount::step_s(int32_t batch) const {
  const auto& table = speed_.step_s;
  const auto above = std::lower_bound(table.begin(), table.end(), batch,
                                      [](const auto& entry, int32_t size) { return entry.first < size; });
  if (above == table.begin()) return table.front().second;
  if (above == table.end()) return table.back().second;
  const auto& [low, low_s] = *(above - 1);
  const auto& [high, high_s] = *above;
  return low_s + (high_s - low_s) * (batch - low) / (high - low);
}

// Recompute what follows from the speed and from what runs.
void EdgeAccount::refresh() {
  next_step_s_ = step_s(num_running() + 1);
  full_step_s_ = step_s(slots_);
  sum_finish_ = 0.0;
  first_finish_ = std::numeric_limits<double>::infinity();
  for (const Running& running : running_) {
    sum_finish_ += running.finish;
    first_finish_ = std::min(first_finish_, running.finish);
  }
  if (running_.empty()) reads_until_ = 0.0;  // so that a clock that jumped is forgotten
}

void EdgeAccount::self_check(int64_t kv_held) const {
  expect(num_running() <= slots_, "more jobs run than there are places");
  expect(kv_held == kv_held_, "the memory held is not the jobs'");
  double sum = 0.0;
  for (const Running& running : running_) {
    expect(running.finish >= first_finish_, "a job ends before the first");
    sum += running.finish;
  }
  expect(sum == sum_finish_, "the sum of ends is wrong");
  if (exists()) expect(next_step_s_ == step_s(num_running() + 1), "the next step's time is of another batch");
  if (running_.empty()) expect(reads_until_ == 0.0, "an idle edge reads");
}

}  // namespace picert::sched
