// linear.cpp: which kernel serves a matrix, and which worker which part of it.
#include "cpu/linear.h"

#include <algorithm>

#include "check.h"
#include "cpu/activations.h"
#include "cpu/linear_kernels.h"

namespace picert::cpu {
namespace {

// Rows that are multiplied with one column after another stay in the L2 cache meanwhile: about half of the 1
// to 2 MiB that server cores have.
constexpr size_t kRowCacheBytes = size_t{768} << 10;
constexpr int64_t kRowBlock = 24;  // a multiple of what the kernels take at once (12 or 8)

int64_t rows_per_pass(size_t row_bytes) {
  const auto fitting = static_cast<int64_t>(kRowCacheBytes / std::max<size_t>(row_bytes, 1));
  return std::max(kRowBlock, fitting / kRowBlock * kRowBlock);
}

ColumnKernel column_kernel(const LinearKernels& kernels, Format format) {
  switch (format) {
    case Format::u4:
      return kernels.u4;
    case Format::u4_min:
      return kernels.u4_min;
    case Format::u5:
      return kernels.u5;
    case Format::u5_min:
      return kernels.u5_min;
    case Format::u6:
      return kernels.u6;
    case Format::u8:
      return kernels.u8;
    default:
      return nullptr;
  }
}

FloatColumnKernel float_kernel(const LinearKernels& kernels, Format format) {
  if (format == Format::f16) return kernels.f16;
  return format == Format::bf16 ? kernels.bf16 : kernels.f32;
}

// Calls visit(first_row, num_rows, column) so that a pass's rows stay cached while this worker's columns go
// by.
template <typename Visit>
void for_each_part(const Worker& worker, const PackedMatrix::Impl& weight, int64_t rows, size_t row_bytes,
                   const Visit& visit) {
  const int64_t columns = (weight.outputs + kTileOutputs - 1) / kTileOutputs;
  const auto [begin, end] = worker.share(columns);
  const int64_t pass = rows_per_pass(row_bytes);
  for (int64_t row = 0; row < rows; row += pass) {
    for (int64_t column = begin; column < end; column++) visit(row, std::min(pass, rows - row), column);
  }
}

int outputs_of(const PackedMatrix::Impl& weight, int64_t column) {
  return static_cast<int>(std::min<int64_t>(kTileOutputs, weight.outputs - column * kTileOutputs));
}

const uint8_t* tiles_of(const PackedMatrix::Impl& weight, int64_t column) {
  return weight.columns.as<uint8_t>() + static_cast<size_t>(column) * weight.column_bytes;
}

// A column with rows in two parts: the kernel sees twice the rows, and their products are added up.
void multiply_two_parts(ColumnKernel kernel, Column column, const Rows& rows) {
  constexpr int64_t kRows = kRowBlock / 2;
  float parts[2 * kRows][kTileOutputs];
  const float* bias = column.bias;
  column.bias = nullptr;
  for (int64_t first = 0; first < rows.count; first += kRows) {
    const int64_t count = std::min(kRows, rows.count - first);
    kernel(column, {rows.x + 2 * first * column.groups, 2 * count, parts[0], kTileOutputs});
    for (int64_t r = 0; r < count; r++) {
      float* out = rows.out + (first + r) * rows.ldo;
      for (int n = 0; n < column.outputs; n++) {
        out[n] = parts[2 * r][n] + parts[2 * r + 1][n] + (bias != nullptr ? bias[n] : 0.0f);
      }
    }
  }
}

void linear_quantized(const Worker& worker, ColumnKernel kernel, const PackedMatrix::Impl& weight,
                      const Activations::Impl& x, int64_t rows, const float* bias, float* out, int64_t ldo) {
  const int64_t groups = num_groups(weight.inputs), row_groups = x.parts * groups;
  const size_t row_bytes = static_cast<size_t>(row_groups) * sizeof(ActivationGroup);
  const auto* activations = x.groups.as<ActivationGroup>();
  const auto* units = weight.units.as<float>();
  for_each_part(worker, weight, rows, row_bytes, [&](int64_t row, int64_t count, int64_t column) {
    const int64_t n = column * kTileOutputs;
    const Column with{tiles_of(weight, column), groups, units + n, bias != nullptr ? bias + n : nullptr,
                      outputs_of(weight, column)};
    const Rows of{activations + row * row_groups, count, out + row * ldo + n, ldo};
    if (x.parts == 2) return multiply_two_parts(kernel, with, of);
    kernel(with, of);
  });
}

void linear_float(const Worker& worker, FloatColumnKernel kernel, const PackedMatrix::Impl& weight,
                  const Activations::Impl& x, int64_t rows, const float* bias, float* out, int64_t ldo) {
  const size_t row_bytes = static_cast<size_t>(weight.inputs) * sizeof(float);
  for_each_part(worker, weight, rows, row_bytes, [&](int64_t row, int64_t count, int64_t column) {
    const int64_t n = column * kTileOutputs;
    kernel({tiles_of(weight, column), weight.inputs, bias != nullptr ? bias + n : nullptr,
            outputs_of(weight, column)},
           {x.x + row * x.ldx, x.ldx, count, out + row * ldo + n, ldo});
  });
}

}  // namespace

const LinearKernels& linear_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return linear_kernels_avx512();
  if (isa == Isa::avx2) return linear_kernels_avx2();
#else
  (void)isa;
#endif
  return linear_kernels_scalar();
}

void linear(const Worker& worker, Isa isa, const PackedMatrix& weight, const Activations& x, int64_t rows,
            const float* bias, float* out, int64_t ldo) {
  const PackedMatrix::Impl& matrix = *weight.impl;
  PICERT_CHECK(x.impl->cols == matrix.inputs, "activations have ", x.impl->cols, " columns, the matrix has ",
               matrix.inputs, " inputs: they must agree");
  const LinearKernels& kernels = linear_kernels(isa);
  if (const ColumnKernel kernel = column_kernel(kernels, matrix.format)) {
    linear_quantized(worker, kernel, matrix, *x.impl, rows, bias, out, ldo);
  } else {
    linear_float(worker, float_kernel(kernels, matrix.format), matrix, *x.impl, rows, bias, out, ldo);
  }
}

}  // namespace picert::cpu
