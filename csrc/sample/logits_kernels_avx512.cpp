// logits_kernels_avx512.cpp: logits_kernels.h for avx512.
#include "cpu/vec_avx512.h"
//
#include "sample/logits_kernels_body.h"

namespace picert::sample {

const LogitsKernels avx512::kLogitsKernels = kFunctions;

}  // namespace picert::sample
