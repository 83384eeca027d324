// tiles.h: how packed weights and quantised activations lie in memory, for all kernels. Plain data, no code.
//
// A matrix W[N, K] is cut into columns of 16 outputs; a column is a run of tiles of 32 inputs each, from
// input 0 on. The codes of a tile are unsigned and grouped in eight operands of 64 bytes, each what one
// `vpdpbusd` multiplies: byte 4 * n + j of operand i is the code of output n and input 4 * i + j. Only code
// bits that exist are stored:
//   nibbles   byte b of packed[s] holds byte b of operand s (low nibble) and of operand 4 + s (high nibble)
//   fifth     bit i of byte b is bit 4 of byte b of operand i
//   upper     bits 2 * (i % 4) and the next of byte b of upper[i / 4] are bits 4 and 5 of byte b of operand i
//
// Types with a scale per 32 weights (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0) are runs of single tiles. Their scales and
// minima are fp16 (at 256 bytes of codes, fp32 ones would add 20 % to what a decode step reads), in units of
// a power of two that each output chooses so that its largest is just below the fp16 limit.
//
// The K types have integer scales under one fp16 factor per 256 weights. They keep both, in blocks of eight
// tiles: no rounding, and 4.63 instead of 5 bits a weight for Q4_K.
#pragma once

#include <cstdint>

namespace picert::cpu {

constexpr int kTileOutputs = 16;
constexpr int kTileInputs = 32;
constexpr int kOperands = 8;
constexpr int kOperandBytes = 64;
constexpr int kBlockTiles = 8;  // of K types: 256 inputs

enum class Format { u4, u4_min, u5, u5_min, u8, u4_k, u5_k, u6_k, f16, bf16, f32 };

using Half = uint16_t;  // the bits of an fp16

// Integer sums start at the bits of 1.5 * 2^23: read as a float, such a sum is 1.5 * 2^23 + itself, exactly
// while it is below 2^22 (the largest is 32 * 128 * 127). scale * that - scale * 1.5 * 2^23 is then one
// fused multiply-add that needs no conversion before it, and as exact as one: a scale has at most 18 bits.
constexpr int32_t kStart = 0x4B400000;
constexpr float kStartValue = 12582912.0f;

// One row's activations for one tile: x[k] ~ scale * codes[k]. A cache line. The starts and the sum serve
// zeros and minima: they are of the codes as quantised, so that the error of a rounded activation meets the
// weight itself and not its unsigned code.
struct alignas(64) ActivationGroup {
  int8_t codes[kTileInputs];
  float scale;
  float sum;         // scale * the sum of the codes
  int32_t start[5];  // kStart - zero * the sum of the codes, at each of these:
};
enum StartAt { kZero8, kZero16, kZero128, kZero32 };  // kZero32: of codes 0..15, then of codes 16..31

// A group whose largest magnitude is no more than this becomes zero: 127 / largest must not overflow.
constexpr float kSmallestActivation = 1e-36f;

struct Nibbles {
  uint8_t packed[kOperands / 2][kOperandBytes];
};

// What kernels ask of a format: kTiles that lie together; kParts of a tile that have a scale each; and how a
// weight follows from its code,
//   kZero != 0   scale * (code - kZero); the integer sum of a part starts at start[kStartAt + part]
//   kZero == 0   scale * code + minimum

struct TileU4 {  // Q4_0: 288 bytes for 512 weights
  static constexpr int kTiles = 1, kParts = 1, kZero = 8;
  static constexpr StartAt kStartAt = kZero8;
  Nibbles nibbles;
  Half scale[kTileOutputs];
};

struct TileU4Min {  // Q4_1: 320 bytes
  static constexpr int kTiles = 1, kParts = 1, kZero = 0;
  Nibbles nibbles;
  Half scale[kTileOutputs];
  Half minimum[kTileOutputs];
};

struct TileU5 {  // Q5_0: 352 bytes
  static constexpr int kTiles = 1, kParts = 1, kZero = 16;
  static constexpr StartAt kStartAt = kZero16;
  Nibbles nibbles;
  uint8_t fifth[kOperandBytes];
  Half scale[kTileOutputs];
};

struct TileU5Min {  // Q5_1: 384 bytes
  static constexpr int kTiles = 1, kParts = 1, kZero = 0;
  Nibbles nibbles;
  uint8_t fifth[kOperandBytes];
  Half scale[kTileOutputs];
  Half minimum[kTileOutputs];
};

struct TileU8 {  // Q8_0: 544 bytes
  static constexpr int kTiles = 1, kParts = 1, kZero = 128;
  static constexpr StartAt kStartAt = kZero128;
  uint8_t codes[kOperands][kOperandBytes];
  Half scale[kTileOutputs];
};

// Q4_K: 2,368 bytes for 4,096 weights. Tile t has scale d * scale[t] and minimum -dmin * minimum[t].
struct BlockU4K {
  static constexpr int kTiles = kBlockTiles, kParts = 1, kZero = 0;
  Nibbles nibbles[kBlockTiles];
  uint8_t scale[kBlockTiles][kTileOutputs];
  uint8_t minimum[kBlockTiles][kTileOutputs];
  Half d[kTileOutputs];
  Half dmin[kTileOutputs];
};

struct BlockU5K {  // Q5_K: 2,880 bytes
  static constexpr int kTiles = kBlockTiles, kParts = 1, kZero = 0;
  Nibbles nibbles[kBlockTiles];
  uint8_t fifth[kBlockTiles][kOperandBytes];
  uint8_t scale[kBlockTiles][kTileOutputs];
  uint8_t minimum[kBlockTiles][kTileOutputs];
  Half d[kTileOutputs];
  Half dmin[kTileOutputs];
};

// Q6_K: 3,360 bytes. Inputs 0..15 of tile t have scale d * scale[t][0], inputs 16..31 d * scale[t][1].
struct BlockU6K {
  static constexpr int kTiles = kBlockTiles, kParts = 2, kZero = 32;
  static constexpr StartAt kStartAt = kZero32;
  Nibbles nibbles[kBlockTiles];
  uint8_t upper[kBlockTiles][2][kOperandBytes];
  int8_t scale[kBlockTiles][2][kTileOutputs];
  Half d[kTileOutputs];
};

// Columns of a quantised matrix that lie one after the other, as a kernel gets them.
struct Columns {
  const void* tiles;
  int64_t groups;     // tiles in a column
  const float* unit;  // [outputs rounded up to 16] by which sums are multiplied at the end
  const float* bias;  // [outputs] or null
  int64_t outputs;    // 16 a column; the last may have fewer
};

// The rows that a kernel multiplies with columns.
struct Rows {
  const ActivationGroup* x;  // [count, groups], row stride ldx groups
  int64_t ldx;
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
