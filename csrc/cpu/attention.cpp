// attention.cpp: the portable kernels and the choice of an instruction set.
#include "cpu/attention_kernels.h"
//
#include "cpu/vec_scalar.h"
//
#include "cpu/attention_body.h"

namespace picert::cpu {

const AttentionKernels scalar::kAttention = kFunctions;

const AttentionKernels& attention_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kAttention;
  if (isa != Isa::scalar) return avx2::kAttention;
#endif
  (void)isa;
  return scalar::kAttention;
}

}  // namespace picert::cpu
