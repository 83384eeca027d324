// vec_scalar.h: the vector type of the portable build: one lane, plain C. The meaning of vec_avx2.h and
// vec_avx512.h.
//
// The kernel bodies (elementwise_body.h, attention_body.h) are written once over `Vec`; each instruction set
// is one translation unit that includes one of these headers first. All of it lies in an anonymous namespace:
// a function with external linkage would be merged across units, possibly into code that the machine cannot
// run.
#pragma once

#include <cstdint>

#include "cpu/float_formats.h"

namespace picert::cpu {
namespace {

struct Vec {
  static constexpr int64_t kWidth = 1;
  // The register tile of matrix products: kTileRows x kTileVecs accumulators.
  static constexpr int kTileRows = 6;
  static constexpr int kTileVecs = 2;
  float v;
};

inline Vec splat(float x) { return {x}; }
inline Vec load(const float* p) { return {*p}; }
inline void store(float* p, Vec x) { *p = x.v; }
// The first n lanes (0 < n <= kWidth); the others are zero.
inline Vec load_first(const float* p, int64_t) { return load(p); }
inline void store_first(float* p, Vec x, int64_t) { store(p, x); }

inline Vec add(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec div(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
// a < b ? x : y, lane by lane.
inline Vec select_less(Vec a, Vec b, Vec x, Vec y) { return a.v < b.v ? x : y; }

inline float sum(Vec x) { return x.v; }
inline float maximum(Vec x) { return x.v; }

// The nearest whole number, |x| < 2^22: the addition leaves no bits for a fraction.
inline Vec round(Vec x) {
  const float magic = 0x1.8p23f;
  volatile float shifted = x.v + magic;  // volatile: the sum must be rounded to fp32 before the difference
  return {shifted - magic};
}
// x * 2^n for whole n in [-126, 127].
inline Vec times_exp2(Vec x, Vec n) {
  return {x.v * float_from_bits(static_cast<uint32_t>(static_cast<int32_t>(n.v) + 127) << 23)};
}

// fp16 and int8 <-> fp32; what goes to int8 is a whole number in [-127, 127].
inline void store_half(uint16_t* p, Vec x) { *p = float_to_half(x.v); }
inline Vec widen(const uint16_t* p) { return {half_to_float(*p)}; }
inline void widen_four(const uint16_t* from, float* to) {
  for (int i = 0; i < 4; i++) to[i] = half_to_float(from[i]);
}
inline void store_int8(int8_t* p, Vec x) { *p = static_cast<int8_t>(x.v); }
inline Vec widen(const int8_t* p) { return {static_cast<float>(*p)}; }
inline void widen_four(const int8_t* from, float* to) {
  for (int i = 0; i < 4; i++) to[i] = static_cast<float>(from[i]);
}

}  // namespace
}  // namespace picert::cpu
