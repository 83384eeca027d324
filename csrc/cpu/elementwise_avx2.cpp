// elementwise_avx2.cpp: elementwise.h for avx2.
#include "cpu/vec_avx2.h"
//
#include "cpu/elementwise_body.h"

namespace picert::cpu {

const Elementwise avx2::kElementwise = kFunctions;

}  // namespace picert::cpu
