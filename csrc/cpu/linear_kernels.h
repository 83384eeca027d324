// linear_kernels.h: the kernels that each instruction set offers, behind function pointers.
//
// All sets compute the same numbers: an exact integer dot product per tile, then fused multiply-adds in the
// order of the tiles. The order is the same for every number of rows, so a row's result depends on that row
// alone: a token gets the same logits whoever shares its batch.
#pragma once

#include "cpu/isa.h"
#include "cpu/tiles.h"

namespace picert::cpu {

using ColumnKernel = void (*)(const Column&, const Rows&);
using FloatColumnKernel = void (*)(const FloatColumn&, const FloatRows&);

// Quantise one row x[cols] into ceil(cols / 32) groups; what is missing in the last one counts as zero.
using QuantizeRow = void (*)(const float* x, int64_t cols, ActivationGroup* out);

struct LinearKernels {
  ColumnKernel u4, u4_min, u5, u5_min, u6, u8;
  FloatColumnKernel f16, bf16, f32;
  QuantizeRow quantize_row;
};

const LinearKernels& linear_kernels_scalar();
const LinearKernels& linear_kernels_avx2();
const LinearKernels& linear_kernels_avx512();

// The kernels of `isa`, which this CPU must support.
const LinearKernels& linear_kernels(Isa isa);

}  // namespace picert::cpu
