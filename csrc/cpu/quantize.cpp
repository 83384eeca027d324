// quantize.cpp: activations to int8, each worker some rows.
#include <algorithm>

#include "check.h"
#include "cpu/activations.h"
#include "cpu/linear_kernels.h"

namespace picert::cpu {
namespace {

size_t bytes_of(int64_t rows, int64_t cols, Precision precision) {
  return static_cast<size_t>(rows * num_parts(precision) * group_stride(cols)) * sizeof(ActivationGroup);
}

// Into `rest` what the codes of `first` left of x[cols].
void quantize_rest(QuantizeRow quantize_row, const float* x, int64_t cols, const ActivationGroup* first,
                   ActivationGroup* rest) {
  for (int64_t k = 0; k < cols; k += kTileInputs, first++, rest++) {
    const int64_t count = std::min<int64_t>(kTileInputs, cols - k);
    float left[kTileInputs];
    for (int64_t i = 0; i < count; i++)
      left[i] = x[k + i] - first->scale * static_cast<float>(first->codes[i]);
    quantize_row(left, count, rest);
  }
}

}  // namespace

Activations::Activations() : impl(std::make_unique<Impl>()) {}
Activations::~Activations() = default;
Activations::Activations(Activations&&) noexcept = default;
Activations& Activations::operator=(Activations&&) noexcept = default;

void Activations::reserve(int64_t rows, int64_t cols, Precision precision) {
  PICERT_CHECK(rows >= 0 && cols >= 0, "activations are ", rows, " x ", cols, ": sizes must not be negative");
  const size_t bytes = bytes_of(rows, cols, precision);
  if (bytes > impl->groups.bytes()) impl->groups = AlignedBuffer(bytes);
}

void quantize(const Worker& worker, Isa isa, const float* x, int64_t ldx, int64_t rows, int64_t cols,
              Activations& out, Precision precision) {
  PICERT_CHECK(bytes_of(rows, cols, precision) <= out.impl->groups.bytes(), "activations of ", rows, " x ",
               cols, " do not fit: call reserve first");
  const int parts = num_parts(precision);
  if (worker.rank == 0) {
    out.impl->parts = parts;
    out.impl->cols = cols;
    out.impl->x = x;
    out.impl->ldx = ldx;
  }
  const QuantizeRow quantize_row = linear_kernels(isa).quantize_row;
  const int64_t stride = group_stride(cols);
  const auto [begin, end] = worker.share(rows);
  for (int64_t r = begin; r < end; r++) {
    auto* into = out.impl->groups.as<ActivationGroup>() + r * parts * stride;
    quantize_row(x + r * ldx, cols, into);
    if (parts == 2) quantize_rest(quantize_row, x + r * ldx, cols, into, into + stride);
  }
}

}  // namespace picert::cpu
