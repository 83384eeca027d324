// vec_math.h: functions over `Vec` that need no instruction of their own. Include a vec_<isa>.h first.
#pragma once

#include <cstdint>

namespace picert::cpu {
namespace {

// Call body(i, lanes) for vectors that cover 0..n; the last may have fewer than kWidth lanes.
template <typename Body>
inline void for_each_vec(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + Vec::kWidth <= n; i += Vec::kWidth) body(i, Vec::kWidth);
  if (i < n) body(i, n - i);
}

// e^x for x in [-87.3, 88.3], with a relative error below 3e-7.
inline Vec exp_in_range(Vec x) {
  const Vec n = round(mul(x, splat(1.44269504f)));  // x / ln 2
  // r = x - n ln 2, |r| <= ln 2 / 2, with ln 2 in two parts, the first of which n multiplies exactly.
  const Vec r = fma(n, splat(-0x1.7f7d1cp-20f), fma(n, splat(-0x1.62e400p-1f), x));
  // e^r = 1 + r + r^2 p(r); p by least squares of the relative error (3e-9).
  Vec p = fma(r, splat(0x1.6a244ap-10f), splat(0x1.1239d4p-7f));
  p = fma(r, p, splat(0x1.5558f2p-5f));
  p = fma(r, p, splat(0x1.555492p-3f));
  p = fma(r, p, splat(0x1.fffffcp-2f));
  return times_exp2(add(splat(1.0f), fma(mul(r, r), p, r)), n);
}

// e^x for x <= 0; exactly 0 below -87.3, so that masked scores weigh nothing.
inline Vec exp_not_positive(Vec x) {
  return select_less(x, splat(-87.3f), splat(0.0f), exp_in_range(max(x, splat(-87.3f))));
}

// e^x; exactly 0 below -87.3 and infinite above 88.3.
inline Vec exp(Vec x) {
  return select_less(splat(88.3f), x, splat(__builtin_inff()), exp_not_positive(min(x, splat(88.3f))));
}

// 1 / (1 + e^-x)
inline Vec sigmoid(Vec x) { return div(splat(1.0f), add(splat(1.0f), exp(sub(splat(0.0f), x)))); }

// tanh(x) = 2 sigmoid(2x) - 1
inline Vec tanh(Vec x) { return fma(splat(2.0f), sigmoid(add(x, x)), splat(-1.0f)); }

}  // namespace
}  // namespace picert::cpu
