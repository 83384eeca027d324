// segment_batcher.h: which neighbouring segments of a sketch are written one after the other, in one place of
// a batch.
//
// More groups end sooner, but each reads the prompt anew and slows the others' steps. Cut into k groups of
// which the longest has M tokens, the segments take
//     T(k) = k * read_s + M(k) * step_s[k - 1]
// seconds, and M(k) is the least that any cut into at most k groups reaches. The batcher finds the k with the
// lowest T; of equals the smallest. For a given M a cut is found by filling groups from the left, so M(k) is
// found by bisection; levels whose lower bound is no better than what is known are left out. (Merging the
// shortest pair of neighbours again and again, the obvious way, is over the optimum by 20 % in one case of
// ten.)
#pragma once

#include <cstdint>
#include <vector>

namespace picert::sched {

class SegmentBatcher {
 public:
  // Where the groups end: group g holds the segments from the end of group g - 1 up to ends[g], without it.
  // `tokens` are the predicted lengths in order; `step_s[k - 1]` is the seconds of a decoding step with k
  // groups, never falling with k, as many as there are places; `read_s` is what a further group costs before
  // it begins. Throws std::invalid_argument for numbers that cannot be true. Valid until the next call.
  const std::vector<int32_t>& group(const std::vector<int32_t>& tokens, const std::vector<double>& step_s,
                                    double read_s);

  // Predicted seconds of the last result.
  double seconds() const { return seconds_; }

  // Throws std::logic_error unless the last result is a cut of the last segments that costs what it says.
  void self_check() const;

 private:
  int64_t least_longest(int64_t low, int64_t high, int32_t max_groups) const;
  int32_t count_groups(int64_t longest, int32_t max_groups) const;
  void cut(int64_t longest);

  std::vector<int32_t> tokens_;
  std::vector<double> step_s_;
  double read_s_ = 0.0;
  std::vector<int32_t> ends_;
  double seconds_ = 0.0;
};

}  // namespace picert::sched
