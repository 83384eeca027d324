// logits_kernels_avx2.cpp: logits_kernels.h for avx2.
#include "cpu/vec_avx2.h"
//
#include "sample/logits_kernels_body.h"

namespace picert::sample {

const LogitsKernels avx2::kLogitsKernels = kFunctions;

}  // namespace picert::sample
