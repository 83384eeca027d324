// step_profile.cpp: the phases' names.
#include "cpu/step_profile.h"

namespace picert::cpu {

const char* phase_name(Phase phase) {
  switch (phase) {
    case Phase::embed:
      return "embed";
    case Phase::norm:
      return "norm";
    case Phase::qkv:
      return "qkv";
    case Phase::rope:
      return "rope";
    case Phase::attention:
      return "attention";
    case Phase::o:
      return "o";
    case Phase::gate_up:
      return "gate_up";
    case Phase::activation:
      return "activation";
    case Phase::down:
      return "down";
    case Phase::lm_head:
      return "lm_head";
    case Phase::wait:
      return "wait";
  }
  return "?";
}

}  // namespace picert::cpu
