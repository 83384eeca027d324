// linear_avx2.cpp: the kernels of linear_kernels.h for AVX2.
#include "cpu/linear_avx2_body.h"

namespace picert::cpu {

const LinearKernels& linear_kernels_avx2() { return kKernels; }

}  // namespace picert::cpu
