// logits_kernels.cpp: the portable form, and the choice of a form.
#include "sample/logits_kernels.h"

#include "cpu/vec_scalar.h"
//
#include "sample/logits_kernels_body.h"

namespace picert::sample {

const LogitsKernels scalar::kLogitsKernels = kFunctions;

const LogitsKernels& logits_kernels(cpu::Isa isa) {
#if defined(__x86_64__)
  if (isa == cpu::Isa::avx512) return avx512::kLogitsKernels;
  if (isa != cpu::Isa::scalar) return avx2::kLogitsKernels;
#endif
  (void)isa;
  return scalar::kLogitsKernels;
}

}  // namespace picert::sample
