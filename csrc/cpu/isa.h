// isa.h: which instruction set the kernels use, chosen once at run time from the CPU's own report.
#pragma once

#include <string>
#include <vector>

namespace picert::cpu {

// avx2: with FMA and F16C. avx2_vnni: and AVX-VNNI, which only linear layers use. avx512: F, BW, DQ, VL and
// VNNI.
enum class Isa { scalar, avx2, avx2_vnni, avx512 };

// Those that this CPU and operating system support, the best last.
std::vector<Isa> supported_isas();
Isa best_isa();

// `name` is "scalar", "avx2", "avx2_vnni", "avx512", or "" for PICERT_ISA's value or else the best. Throws
// std::invalid_argument for a name that is unknown or not supported here.
Isa parse_isa(const std::string& name);

const char* isa_name(Isa isa);

}  // namespace picert::cpu
