#include "sched/segment_batcher.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "check.h"

namespace picert::sched {
namespace {

void expect(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("segment batcher: ") + what);
}

void check_cost(const std::vector<double>& step_s, double read_s) {
  PICERT_CHECK(!step_s.empty(), "there is no place for a group: give the seconds of at least one step");
  PICERT_CHECK(std::isfinite(read_s) && read_s >= 0, "read_s is ", read_s, ", must be 0 or more");
  double before = 0.0;
  for (const double step : step_s) {
    PICERT_CHECK(std::isfinite(step) && step > 0 && step >= before, "step_s has ", step, " after ", before,
                 ", must be over 0 and never fall");
    before = step;
  }
}

}  // namespace

const std::vector<int32_t>& SegmentBatcher::group(const std::vector<int32_t>& tokens,
                                                  const std::vector<double>& step_s, double read_s) {
  check_cost(step_s, read_s);
  for (const int32_t count : tokens) PICERT_CHECK(count >= 1, "a segment of ", count, " tokens");
  tokens_ = tokens;
  step_s_ = step_s;
  read_s_ = read_s;
  ends_.clear();
  seconds_ = 0.0;
  if (tokens_.empty()) return ends_;

  const int64_t longest_segment = *std::max_element(tokens_.begin(), tokens_.end());
  const int64_t total = std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0});
  const auto num_levels = static_cast<int32_t>(std::min(tokens_.size(), step_s_.size()));
  double best = std::numeric_limits<double>::infinity();
  int64_t best_longest = total;
  int64_t high = total;  // M of the level before: M never rises with k
  for (int32_t k = 1; k <= num_levels; ++k) {
    const int64_t low = std::max(longest_segment, (total + k - 1) / k);
    const double reads = k * read_s_;
    if (reads + static_cast<double>(low) * step_s_[k - 1] >= best) continue;
    high = least_longest(low, high, k);
    const double seconds = reads + static_cast<double>(high) * step_s_[k - 1];
    if (seconds >= best) continue;
    best = seconds;
    best_longest = high;
  }
  cut(best_longest);
  seconds_ = best;
  return ends_;
}

// The least M in [low, high] with which `max_groups` groups hold all; `high` is known to do.
int64_t SegmentBatcher::least_longest(int64_t low, int64_t high, int32_t max_groups) const {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (count_groups(middle, max_groups) <= max_groups) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high;
}

// Groups of at most `longest` tokens that hold all segments; stops counting past `max_groups`.
int32_t SegmentBatcher::count_groups(int64_t longest, int32_t max_groups) const {
  int32_t count = 1;
  int64_t filled = 0;
  for (const int32_t tokens : tokens_) {
    filled += tokens;
    if (filled <= longest) continue;
    if (++count > max_groups) return count;
    filled = tokens;
  }
  return count;
}

void SegmentBatcher::cut(int64_t longest) {
  int64_t filled = 0;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    filled += tokens_[i];
    if (filled <= longest) continue;
    ends_.push_back(static_cast<int32_t>(i));
    filled = tokens_[i];
  }
  ends_.push_back(static_cast<int32_t>(tokens_.size()));
}

void SegmentBatcher::self_check() const {
  if (tokens_.empty()) return expect(ends_.empty(), "groups without segments");
  expect(ends_.size() <= step_s_.size(), "more groups than places");
  expect(!ends_.empty() && ends_.back() == static_cast<int32_t>(tokens_.size()), "a segment is in no group");
  int64_t longest = 0;
  int32_t begin = 0;
  for (const int32_t end : ends_) {
    expect(begin < end, "an empty group");
    longest = std::max(longest, std::accumulate(tokens_.begin() + begin, tokens_.begin() + end, int64_t{0}));
    begin = end;
  }
  const auto k = static_cast<double>(ends_.size());
  const double seconds = k * read_s_ + static_cast<double>(longest) * step_s_[ends_.size() - 1];
  expect(std::abs(seconds - seconds_) <= 1e-9 * seconds, "the predicted time is not the groups'");
}

}  // namespace picert::sched
