// activations.h: what Activations and PackedMatrix hold; for pack, quantize, linear and fused kernels, not
// for callers.
#pragma once

#include "cpu/aligned_buffer.h"
#include "cpu/linear.h"
#include "cpu/tiles.h"

namespace picert::cpu {

inline int64_t num_groups(int64_t inputs) { return (inputs + kTileInputs - 1) / kTileInputs; }

// Groups from a row to the next. An odd number of cache lines: rows that are read side by side would
// otherwise fall into few sets of the L1 cache wherever inputs are a multiple of a large power of two.
inline int64_t group_stride(int64_t inputs) { return num_groups(inputs) | 1; }

inline int num_parts(Precision precision) { return precision == Precision::int16 ? 2 : 1; }

struct PackedMatrix::Impl {
  Format format;
  int64_t outputs;
  int64_t inputs;
  size_t column_bytes;
  AlignedBuffer columns;  // one after the other
  AlignedBuffer units;    // float [outputs rounded up to 16]; only for quantised formats
};

struct Activations::Impl {
  AlignedBuffer groups;  // ActivationGroup [rows, parts, group_stride(cols)]
  int parts = 1;         // 2 for Precision::int16: a row and what it left over
  int64_t cols = 0;
  const float* x = nullptr;  // the rows themselves, for weights kept in floating point
  int64_t ldx = 0;
};

}  // namespace picert::cpu
