// segments.cpp: summaries of parts, joined under the highest logit of all.
#include "sample/segments.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace picert::sample {

int64_t num_segments(int64_t n) { return (n + kSegment - 1) / kSegment; }

RowSummary summarize_segment(const LogitsKernels& kernels, const float* x, int64_t n, int64_t s,
                             float* block_max) {
  const int64_t first = s * kSegment;
  RowSummary summary;
  kernels.summarize(x + first, std::min(kSegment, n - first), block_max + first / kBlock, &summary);
  summary.best += first;
  return summary;
}

RowSummary join(const RowSummary* segments, int64_t count) {
  RowSummary row = segments[0];
  for (int64_t s = 1; s < count; s++) {
    row.is_finite = row.is_finite && segments[s].is_finite;
    if (segments[s].highest <= row.highest) continue;
    row.highest = segments[s].highest;
    row.best = segments[s].best;
  }
  row.sum_exp = 0.0;
  for (int64_t s = 0; s < count; s++) {
    if (segments[s].sum_exp == 0.0) continue;  // all of it is -inf
    row.sum_exp += segments[s].sum_exp * std::exp(static_cast<double>(segments[s].highest - row.highest));
  }
  return row;
}

RowSummary summarize_row(const LogitsKernels& kernels, const float* x, int64_t n, float* block_max) {
  std::vector<RowSummary> segments;
  for (int64_t s = 0; s < num_segments(n); s++) {
    segments.push_back(summarize_segment(kernels, x, n, s, block_max));
  }
  return join(segments.data(), num_segments(n));
}

}  // namespace picert::sample
