// linear_kernels.h: the kernels that each instruction set offers, behind function pointers.
//
// All sets compute the same numbers: an exact integer dot product per tile, then fused multiply-adds in the
// order of the tiles. The order is the same for every number of rows, so a row's result depends on that row
// alone: a token gets the same logits whoever shares its batch.
#pragma once

#include "cpu/isa.h"
#include "cpu/tiles.h"

namespace picert::cpu {

using ColumnsKernel = void (*)(const Columns&, const Rows&);
using FloatColumnKernel = void (*)(const FloatColumn&, const FloatRows&);

// Quantise one row x[cols] into ceil(cols / 32) groups; what is missing in the last one counts as zero.
using QuantizeRow = void (*)(const float* x, int64_t cols, ActivationGroup* out);

// The scale, sum and starts of a group whose largest magnitude is `largest`, from the sums of codes 0..15 and
// 16..31. Static: each instruction set's file must compile its own copy.
static inline void set_sums(float largest, int32_t low, int32_t high, ActivationGroup& out) {
  const int32_t sum = low + high;
  out.scale = largest > kSmallestActivation ? largest * (1.0f / 127.0f) : 0.0f;
  out.sum = out.scale * static_cast<float>(sum);
  out.start[kZero8] = kStart - 8 * sum;
  out.start[kZero16] = kStart - 16 * sum;
  out.start[kZero128] = kStart - 128 * sum;
  out.start[kZero32] = kStart - 32 * low;
  out.start[kZero32 + 1] = kStart - 32 * high;
}

struct LinearKernels {
  ColumnsKernel u4, u4_min, u5, u5_min, u8, u4_k, u5_k, u6_k;
  FloatColumnKernel f16, bf16, f32;
  QuantizeRow quantize_row;
};

const LinearKernels& linear_kernels_scalar();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx2_vnni();
const LinearKernels& linear_kernels_avx512();

// The kernels of `isa`, which this CPU must support.
const LinearKernels& linear_kernels(Isa isa);

}  // namespace picert::cpu
