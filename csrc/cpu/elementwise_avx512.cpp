// elementwise_avx512.cpp: elementwise.h for avx512.
#include "cpu/vec_avx512.h"
//
#include "cpu/elementwise_body.h"

namespace picert::cpu {

const Elementwise avx512::kElementwise = kFunctions;

}  // namespace picert::cpu
