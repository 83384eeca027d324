// step_profile.h: where the time of a decoder's steps goes, by phase and worker. Off unless asked for: a
// clock read is 20 to 40 ns, of which a step of a 30-layer model would do a few hundred.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace picert::cpu {

// In the order of a step. `wait`: at barriers, for the other workers.
enum class Phase { embed, norm, qkv, rope, attention, o, gate_up, activation, down, lm_head, wait };
constexpr size_t kNumPhases = static_cast<size_t>(Phase::wait) + 1;

const char* phase_name(Phase phase);

// One worker's clock: it is always in one phase, to which the time until the next `enter` is counted. On
// cache lines of its own.
class alignas(64) PhaseClock {
 public:
  using Seconds = std::array<double, kNumPhases>;

  // Count from nothing, or no longer.
  void turn_on() {
    is_on_ = true;
    seconds_ = {};
  }
  void turn_off() { is_on_ = false; }

  // The worker begins a step.
  void start() {
    current_ = Phase::embed;
    if (is_on_) since_ = Clock::now();
  }

  void enter(Phase phase) {
    if (!is_on_) return;
    const auto now = Clock::now();
    seconds_[static_cast<size_t>(current_)] += std::chrono::duration<double>(now - since_).count();
    since_ = now;
    current_ = phase;
  }

  const Seconds& seconds() const { return seconds_; }

 private:
  using Clock = std::chrono::steady_clock;

  bool is_on_ = false;
  Phase current_ = Phase::embed;
  Clock::time_point since_;
  Seconds seconds_ = {};
};

// Totals since the profile was started.
struct StepProfile {
  int64_t num_steps = 0;
  std::vector<PhaseClock::Seconds> seconds;  // [workers]
};

}  // namespace picert::cpu
