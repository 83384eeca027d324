// quantize.cpp: activations to int8, each worker some groups.
#include <algorithm>

#include "check.h"
#include "cpu/activations.h"
#include "cpu/linear_kernels.h"

namespace picert::cpu {

Activations::Activations() : impl(std::make_unique<Impl>()) {}
Activations::~Activations() = default;
Activations::Activations(Activations&&) noexcept = default;
Activations& Activations::operator=(Activations&&) noexcept = default;

void Activations::reserve(int64_t rows, int64_t cols) {
  PICERT_CHECK(rows >= 0 && cols >= 0, "activations are ", rows, " x ", cols, ": sizes must not be negative");
  const size_t bytes = static_cast<size_t>(rows * num_groups(cols)) * sizeof(ActivationGroup);
  if (bytes > impl->groups.bytes()) impl->groups = AlignedBuffer(bytes);
}

void quantize(const Worker& worker, Isa isa, const float* x, int64_t ldx, int64_t rows, int64_t cols,
              Activations& out) {
  const int64_t groups = num_groups(cols);
  const size_t needed = static_cast<size_t>(rows * groups) * sizeof(ActivationGroup);
  PICERT_CHECK(needed <= out.impl->groups.bytes(), "activations of ", rows, " x ", cols,
               " do not fit: call reserve first");
  if (worker.rank == 0) {
    out.impl->cols = cols;
    out.impl->x = x;
    out.impl->ldx = ldx;
  }
  auto* into = out.impl->groups.as<ActivationGroup>();
  const QuantizeRow quantize_row = linear_kernels(isa).quantize_row;
  // Shared by groups and not by rows: in a decode step with one row every worker has a part.
  const auto [begin, end] = worker.share(rows * groups);
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / groups, first = at % groups, count = std::min(groups - first, end - at);
    const int64_t col = first * kTileInputs;
    quantize_row(x + row * ldx + col, std::min(count * kTileInputs, cols - col), into + at);
    at += count;
  }
}

}  // namespace picert::cpu
