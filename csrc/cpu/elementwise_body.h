// elementwise_body.h: the operations of elementwise.h over `Vec`. Include a vec_<isa>.h first.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/elementwise.h"
#include "cpu/vec_math.h"

namespace picert::cpu {
namespace {

float mean_square(const float* x, int64_t n) {
  constexpr int64_t kStride = 4 * Vec::kWidth;  // four chains, so that the additions' latency is hidden
  Vec sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  int64_t i = 0;
  for (; i + kStride <= n; i += kStride) {
    for (int64_t j = 0; j < 4; j++) {
      const Vec v = load(x + i + j * Vec::kWidth);
      sums[j] = fma(v, v, sums[j]);
    }
  }
  for_each_vec(n - i, [&](int64_t j, int64_t lanes) {
    const Vec v = load_first(x + i + j, lanes);
    sums[0] = fma(v, v, sums[0]);
  });
  return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) / static_cast<float>(n);
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const Vec factor = splat(1.0f / sqrtf(mean_square(x, n) + eps));
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    const Vec scaled = mul(load_first(x + i, lanes), factor);
    store_first(out + i, mul(scaled, load_first(weight + i, lanes)), lanes);
  });
}

void add_inplace(const float* x, int64_t n, float* out) {
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    store_first(out + i, add(load_first(out + i, lanes), load_first(x + i, lanes)), lanes);
  });
}

void scale(const float* x, float factor, int64_t n, float* out) {
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    store_first(out + i, mul(load_first(x + i, lanes), splat(factor)), lanes);
  });
}

void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    const Vec g = load_first(gate + i, lanes);
    store_first(out + i, mul(mul(g, sigmoid(g)), load_first(up + i, lanes)), lanes);
  });
}

// gelu(g) = g/2 (1 + tanh(z)) = g sigmoid(2z), z = sqrt(2/pi) (g + 0.044715 g^3)
void gelu_tanh_mul(const float* gate, const float* up, int64_t n, float* out) {
  const Vec two_sqrt_2_over_pi = splat(1.5957691216f), cubic = splat(0.044715f);
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    const Vec g = load_first(gate + i, lanes);
    const Vec z = mul(mul(two_sqrt_2_over_pi, g), fma(cubic, mul(g, g), splat(1.0f)));
    store_first(out + i, mul(mul(g, sigmoid(z)), load_first(up + i, lanes)), lanes);
  });
}

void rope(const float* cos, const float* sin, int64_t half, float* x) {
  float* y = x + half;
  for_each_vec(half, [&](int64_t i, int64_t lanes) {
    const Vec a = load_first(x + i, lanes), b = load_first(y + i, lanes);
    const Vec c = load_first(cos + i, lanes), s = load_first(sin + i, lanes);
    store_first(x + i, fma(a, c, sub(splat(0.0f), mul(b, s))), lanes);
    store_first(y + i, fma(b, c, mul(a, s)), lanes);
  });
}

void soft_cap(const float* x, float cap, int64_t n, float* out) {
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    const Vec capped = mul(tanh(div(load_first(x + i, lanes), splat(cap))), splat(cap));
    store_first(out + i, capped, lanes);
  });
}

constexpr Elementwise kFunctions = {rms_norm, add_inplace, scale, silu_mul, gelu_tanh_mul, rope, soft_cap};

}  // namespace
}  // namespace picert::cpu
