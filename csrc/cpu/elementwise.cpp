// elementwise.cpp: the portable form, and the choice of a form.
#include "cpu/elementwise.h"

#include "cpu/vec_scalar.h"
//
#include "cpu/elementwise_body.h"

namespace picert::cpu {

const Elementwise scalar::kElementwise = kFunctions;

const Elementwise& elementwise(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512::kElementwise;
  if (isa != Isa::scalar) return avx2::kElementwise;
#endif
  (void)isa;
  return scalar::kElementwise;
}

}  // namespace picert::cpu
