// attention_avx512.cpp: the kernels of attention.h for avx512.
#include "cpu/vec_avx512.h"
//
#include "cpu/attention_body.h"

namespace picert::cpu {

const AttentionKernels avx512::kAttention = kFunctions;

}  // namespace picert::cpu
