// tiles.h: how packed weights and quantised activations lie in memory, for all kernels. Plain data, no code.
//
// A matrix W[N, K] is cut into columns of 16 outputs; a column is a run of tiles of 32 inputs each, from
// input 0 on. In a tile the weight of output n and input k is scale[n] * (code - zero) + minimum[n], with
// unsigned codes.
//
// The codes are grouped in eight operands of 64 bytes, each what one `vpdpbusd` multiplies: byte 4 * n + j of
// operand i is the code of output n and input 4 * i + j. Only code bits that exist are stored:
//   nibbles   byte b of packed[s] holds byte b of operand s (low nibble) and of operand 4 + s (high nibble)
//   fifth     bit i of byte b is bit 4 of byte b of operand i
//   upper     bits 2 * (i % 4) and the next of byte b of upper[i / 4] are bits 4 and 5 of byte b of operand i
//
// Scales and minima are fp16 (at 256 bytes of codes, fp32 ones would add 20 % to what a decode step reads),
// in units of a power of two that each output chooses so that its largest is just below the fp16 limit.
#pragma once

#include <cstdint>

namespace picert::cpu {

constexpr int kTileOutputs = 16;
constexpr int kTileInputs = 32;
constexpr int kOperands = 8;
constexpr int kOperandBytes = 64;

enum class Format { u4, u4_min, u5, u5_min, u6, u8, f16, bf16, f32 };

using Half = uint16_t;  // the bits of an fp16

struct Nibbles {
  uint8_t packed[kOperands / 2][kOperandBytes];
};

struct TileU4 {  // Q4_0: 288 bytes for 512 weights
  static constexpr int kZero = 8;
  Nibbles nibbles;
  Half scale[kTileOutputs];
};

struct TileU4Min {  // Q4_1, Q4_K: 320 bytes
  Nibbles nibbles;
  Half scale[kTileOutputs];
  Half minimum[kTileOutputs];
};

struct TileU5 {  // Q5_0: 352 bytes
  static constexpr int kZero = 16;
  Nibbles nibbles;
  uint8_t fifth[kOperandBytes];
  Half scale[kTileOutputs];
};

struct TileU5Min {  // Q5_1, Q5_K: 384 bytes
  Nibbles nibbles;
  uint8_t fifth[kOperandBytes];
  Half scale[kTileOutputs];
  Half minimum[kTileOutputs];
};

struct TileU6 {  // Q6_K: 448 bytes; inputs 0..15 have scale[0], inputs 16..31 have scale[1]
  static constexpr int kZero = 32;
  Nibbles nibbles;
  uint8_t upper[2][kOperandBytes];
  Half scale[2][kTileOutputs];
};

struct TileU8 {  // Q8_0: 544 bytes
  static constexpr int kZero = 128;
  uint8_t codes[kOperands][kOperandBytes];
  Half scale[kTileOutputs];
};

// One row's activations for one tile: x[k] ~ scale * codes[k]. The sums serve minima and zeros: they are of
// the codes as quantised, so that the error of a rounded activation meets w itself and not its unsigned code.
struct ActivationGroup {
  int8_t codes[kTileInputs];
  float scale;
  float sum;  // scale * the sum of the codes
  // Negated, as the integer sums of types with a zero start at zero * -total:
  int32_t minus_total;  // of all codes
  int32_t minus_low;    // of codes 0..15
  int32_t minus_high;   // of codes 16..31
};

// A group whose largest magnitude is no more than this becomes zero: 127 / largest must not overflow.
constexpr float kSmallestActivation = 1e-36f;

// One column of a quantised matrix, as a kernel gets it.
struct Column {
  const void* tiles;
  int64_t groups;     // tiles in the column
  const float* unit;  // [16] by which sums are multiplied at the end; padded
  const float* bias;  // [outputs] or null
  int outputs;        // 1..16 that exist
};

// The rows that a kernel multiplies with a column.
struct Rows {
  const ActivationGroup* x;  // [count, groups]
  int64_t count;
  float* out;  // [count, outputs], row stride ldo
  int64_t ldo;
};

// One column of a matrix kept in floating point: input k of output n is element 16 * k + n.
struct FloatColumn {
  const void* weights;
  int64_t inputs;
  const float* bias;  // [outputs] or null
  int outputs;
};

struct FloatRows {
  const float* x;  // [count, inputs], row stride ldx
  int64_t ldx;
  int64_t count;
  float* out;  // [count, outputs], row stride ldo
  int64_t ldo;
};

}  // namespace picert::cpu
