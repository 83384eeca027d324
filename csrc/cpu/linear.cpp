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
// Rows and outputs that are multiplied before their two parts are added: 16 KiB of sums.
constexpr int64_t kTwoPartRows = 64;
constexpr int64_t kTwoPartOutputs = 2 * kTileOutputs;

int64_t rows_per_pass(size_t row_bytes) {
  const auto fitting = static_cast<int64_t>(kRowCacheBytes / std::max<size_t>(row_bytes, 1));
  return std::max(kRowBlock, fitting / kRowBlock * kRowBlock);
}

ColumnsKernel columns_kernel(const LinearKernels& kernels, Format format) {
  switch (format) {
    case Format::u4:
      return kernels.u4;
    case Format::u4_min:
      return kernels.u4_min;
    case Format::u5:
      return kernels.u5;
    case Format::u5_min:
      return kernels.u5_min;
    case Format::u8:
      return kernels.u8;
    case Format::u4_k:
      return kernels.u4_k;
    case Format::u5_k:
      return kernels.u5_k;
    case Format::u6_k:
      return kernels.u6_k;
    default:
      return nullptr;
  }
}

FloatColumnKernel float_kernel(const LinearKernels& kernels, Format format) {
  if (format == Format::f16) return kernels.f16;
  return format == Format::bf16 ? kernels.bf16 : kernels.f32;
}

// This worker's outputs, in whole columns.
std::pair<int64_t, int64_t> outputs_of(const Worker& worker, const PackedMatrix::Impl& weight) {
  return worker.share(weight.outputs, kTileOutputs);
}

const uint8_t* tiles_of(const PackedMatrix::Impl& weight, int64_t output) {
  return weight.columns.as<uint8_t>() + static_cast<size_t>(output / kTileOutputs) * weight.column_bytes;
}

const float* at_or_null(const float* values, int64_t index) {
  return values != nullptr ? values + index : nullptr;
}

// Rows in two parts: the kernel sees twice the rows, and their products are added up.
void multiply_two_parts(ColumnsKernel kernel, Columns columns, const Rows& rows) {
  float parts[2 * kTwoPartRows][kTwoPartOutputs];
  const float* bias = columns.bias;
  columns.bias = nullptr;
  for (int64_t first = 0; first < rows.count; first += kTwoPartRows) {
    const int64_t count = std::min(kTwoPartRows, rows.count - first);
    kernel(columns, {rows.x + 2 * first * rows.ldx, rows.ldx, 2 * count, parts[0], kTwoPartOutputs});
    for (int64_t r = 0; r < count; r++) {
      float* out = rows.out + (first + r) * rows.ldo;
      for (int64_t n = 0; n < columns.outputs; n++) {
        out[n] = parts[2 * r][n] + parts[2 * r + 1][n] + (bias != nullptr ? bias[n] : 0.0f);
      }
    }
  }
}

// Rows in passes that stay cached while this worker's columns go by.
void linear_quantized(const Worker& worker, ColumnsKernel kernel, const PackedMatrix::Impl& weight,
                      const Activations::Impl& x, int64_t rows, const float* bias, float* out, int64_t ldo) {
  const int64_t groups = num_groups(weight.inputs), stride = group_stride(weight.inputs);
  const int64_t row_groups = x.parts * stride;
  const int64_t pass = rows_per_pass(static_cast<size_t>(row_groups) * sizeof(ActivationGroup));
  const auto [begin, end] = outputs_of(worker, weight);
  const int64_t step = x.parts == 2 ? kTwoPartOutputs : end - begin;
  for (int64_t row = 0; row < rows; row += pass) {
    for (int64_t n = begin; n < end; n += step) {
      const Columns columns{tiles_of(weight, n), groups, weight.units.as<float>() + n, at_or_null(bias, n),
                            std::min(step, end - n)};
      const Rows block{x.groups.as<ActivationGroup>() + row * row_groups, stride, std::min(pass, rows - row),
                       out + row * ldo + n, ldo};
      if (x.parts == 2) {
        multiply_two_parts(kernel, columns, block);
      } else {
        kernel(columns, block);
      }
    }
  }
}

void linear_float(const Worker& worker, FloatColumnKernel kernel, const PackedMatrix::Impl& weight,
                  const Activations::Impl& x, int64_t rows, const float* bias, float* out, int64_t ldo) {
  const int64_t pass = rows_per_pass(static_cast<size_t>(weight.inputs) * sizeof(float));
  const auto [begin, end] = outputs_of(worker, weight);
  for (int64_t row = 0; row < rows; row += pass) {
    for (int64_t n = begin; n < end; n += kTileOutputs) {
      const auto outputs = static_cast<int>(std::min<int64_t>(kTileOutputs, end - n));
      kernel({tiles_of(weight, n), weight.inputs, at_or_null(bias, n), outputs},
             {x.x + row * x.ldx, x.ldx, std::min(pass, rows - row), out + row * ldo + n, ldo});
    }
  }
}

}  // namespace

const LinearKernels& linear_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return linear_kernels_avx512();
  if (isa == Isa::avx2_vnni) return linear_kernels_avx2_vnni();
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
  if (const ColumnsKernel kernel = columns_kernel(kernels, matrix.format)) {
    linear_quantized(worker, kernel, matrix, *x.impl, rows, bias, out, ldo);
  } else {
    linear_float(worker, float_kernel(kernels, matrix.format), matrix, *x.impl, rows, bias, out, ldo);
  }
}

}  // namespace picert::cpu
