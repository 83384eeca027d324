// linear_avx2_vnni.cpp: the kernels of linear_kernels.h for AVX2 with AVX-VNNI. A compiler that does not know
// AVX-VNNI builds those of AVX2 once more: the bits are the same.
#include "cpu/linear_avx2_body.h"

namespace picert::cpu {

const LinearKernels& linear_kernels_avx2_vnni() { return kKernels; }

}  // namespace picert::cpu
