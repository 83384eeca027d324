// segments.h: a row's summary from those of its segments, which different threads may make.
//
// Segments have a fixed size, so that a row's result does not depend on how many threads there are.
#pragma once

#include <cstdint>

#include "sample/logits_kernels.h"

namespace picert::sample {

// Small enough to share the row of one sequence among threads (6 segments of 49,152 logits), large against
// the cost of joining them.
constexpr int64_t kSegment = 64 * kBlock;

int64_t num_segments(int64_t n);

// Of segment s of the row x[n]; block_max is the whole row's.
RowSummary summarize_segment(const LogitsKernels& kernels, const float* x, int64_t n, int64_t s,
                             float* block_max);

// Of the whole row, from all of its segments in order.
RowSummary join(const RowSummary* segments, int64_t count);

// Of the whole row on this thread, the same bits.
RowSummary summarize_row(const LogitsKernels& kernels, const float* x, int64_t n, float* block_max);

}  // namespace picert::sample
