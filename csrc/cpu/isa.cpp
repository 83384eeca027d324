// isa.cpp: what the CPU and the operating system report, and the override in PICERT_ISA.
#include "cpu/isa.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "check.h"

namespace picert::cpu {
namespace {

constexpr Isa kAll[] = {Isa::scalar, Isa::avx2, Isa::avx2_vnni, Isa::avx512};

#if defined(__x86_64__)
// Not all compilers have a name for it: leaf 7, part 1, bit 4 of EAX.
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1u) != 0;
}
#endif

// __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
bool supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx2_vnni) return avx2 && has_avx_vnni();
  if (isa == Isa::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
  }
#endif
  return isa == Isa::scalar;
}

Isa isa_from_name(const std::string& name) {
  for (const Isa isa : kAll) {
    if (name == isa_name(isa)) return isa;
  }
  fail("instruction set is '", name, "': use scalar, avx2, avx2_vnni or avx512");
}

}  // namespace

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAll) {
    if (supported(isa)) isas.push_back(isa);
  }
  return isas;
}

Isa best_isa() { return supported_isas().back(); }

Isa parse_isa(const std::string& name) {
  const char* environment = std::getenv("PICERT_ISA");
  const std::string wanted = name.empty() && environment != nullptr ? environment : name;
  if (wanted.empty()) return best_isa();
  const Isa isa = isa_from_name(wanted);
  PICERT_CHECK(supported(isa), "instruction set ", wanted, " is not supported by this CPU: use ",
               isa_name(best_isa()));
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx2_vnni:
      return "avx2_vnni";
    case Isa::avx512:
      return "avx512";
    default:
      return "scalar";
  }
}

}  // namespace picert::cpu
