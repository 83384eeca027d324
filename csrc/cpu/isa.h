// isa.h: which instruction set the kernels use, chosen once at run time from the CPU's own report.
#pragma once

#include <string>

namespace picert::cpu {

enum class Isa { scalar, avx2, avx512 };  // avx512: F, BW, DQ, VL and VNNI

// The best one that this CPU and operating system support.
Isa best_isa();

// `name` is "scalar", "avx2", "avx512", or "" for PICERT_ISA's value or else the best. Throws
// std::invalid_argument for a name that is unknown or not supported here.
Isa parse_isa(const std::string& name);

const char* isa_name(Isa isa);

}  // namespace picert::cpu
