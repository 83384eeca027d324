// elementwise.h: the small operations between the matrix products of a step, on one row each; no function
// allocates.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace picert::cpu {

// Rows of n floats, which may be any n >= 1. `out` may be an input unless said otherwise.
struct Elementwise {
  // out = x / sqrt(mean(x^2) + eps) * weight
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  // out += x
  void (*add)(const float* x, int64_t n, float* out);
  // out = x * factor
  void (*scale)(const float* x, float factor, int64_t n, float* out);
  // out = silu(gate) * up
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  // out = gelu(gate) * up, the tanh form
  void (*gelu_tanh_mul)(const float* gate, const float* up, int64_t n, float* out);
  // Rotate the pairs (x[i], x[i + half]) of one head by the angles whose cosines and sines are given, [half]
  // each.
  void (*rope)(const float* cos, const float* sin, int64_t half, float* x);
  // out = cap * tanh(x / cap)
  void (*soft_cap)(const float* x, float cap, int64_t n, float* out);
};

// The functions for `isa`, which this CPU must support.
const Elementwise& elementwise(Isa isa);

namespace scalar {
extern const Elementwise kElementwise;
}
namespace avx2 {
extern const Elementwise kElementwise;
}
namespace avx512 {
extern const Elementwise kElementwise;
}

}  // namespace picert::cpu
