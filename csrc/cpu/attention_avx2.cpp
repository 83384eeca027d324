// attention_avx2.cpp: the kernels of attention.h for avx2.
#include "cpu/vec_avx2.h"
//
#include "cpu/attention_body.h"

namespace picert::cpu {

const AttentionKernels avx2::kAttention = kFunctions;

}  // namespace picert::cpu
