// linear_scalar.cpp: the plain meaning of the linear kernels, for any machine and as the oracle of the
// others.
#include <cmath>

#include "cpu/float_formats.h"
#include "cpu/linear_kernels.h"

namespace picert::cpu {
namespace {

int nibble(const Nibbles& nibbles, int operand, int byte) {
  const int both = nibbles.packed[operand % 4][byte];
  return operand < 4 ? both & 15 : both >> 4;
}

int bit4(const uint8_t* fifth, int operand, int byte) { return ((fifth[byte] >> operand) & 1) << 4; }

// The code at a byte of an operand of tile t.
template <typename Tile>  // TileU4, TileU4Min
int code_at(const Tile& tile, int, int operand, int byte) {
  return nibble(tile.nibbles, operand, byte);
}

template <>
int code_at(const TileU5& tile, int, int operand, int byte) {
  return nibble(tile.nibbles, operand, byte) | bit4(tile.fifth, operand, byte);
}

template <>
int code_at(const TileU5Min& tile, int, int operand, int byte) {
  return nibble(tile.nibbles, operand, byte) | bit4(tile.fifth, operand, byte);
}

template <>
int code_at(const TileU8& tile, int, int operand, int byte) {
  return tile.codes[operand][byte];
}

template <>
int code_at(const BlockU4K& block, int t, int operand, int byte) {
  return nibble(block.nibbles[t], operand, byte);
}

template <>
int code_at(const BlockU5K& block, int t, int operand, int byte) {
  return nibble(block.nibbles[t], operand, byte) | bit4(block.fifth[t], operand, byte);
}

template <>
int code_at(const BlockU6K& block, int t, int operand, int byte) {
  const int upper = block.upper[t][operand / 4][byte] >> (operand % 4 * 2);
  return nibble(block.nibbles[t], operand, byte) | (upper & 3) << 4;
}

// The scale of a part of tile t of output n, and its minimum.
template <typename Tile>
float scale_of(const Tile& tile, int, int, int n) {
  return half_to_float(tile.scale[n]);
}

template <typename Block>  // BlockU4K, BlockU5K
float k_scale_of(const Block& block, int t, int n) {
  return half_to_float(block.d[n]) * static_cast<float>(block.scale[t][n]);
}

float scale_of(const BlockU4K& block, int t, int, int n) { return k_scale_of(block, t, n); }
float scale_of(const BlockU5K& block, int t, int, int n) { return k_scale_of(block, t, n); }
float scale_of(const BlockU6K& block, int t, int part, int n) {
  return half_to_float(block.d[n]) * static_cast<float>(block.scale[t][part][n]);
}

template <typename Tile>
float minimum_of(const Tile& tile, int, int n) {
  return half_to_float(tile.minimum[n]);
}

template <typename Block>  // BlockU4K, BlockU5K
float k_minimum_of(const Block& block, int t, int n) {
  return -half_to_float(block.dmin[n]) * static_cast<float>(block.minimum[t][n]);
}

float minimum_of(const BlockU4K& block, int t, int n) { return k_minimum_of(block, t, n); }
float minimum_of(const BlockU5K& block, int t, int n) { return k_minimum_of(block, t, n); }

// Add tile t's part of output n to `sum`.
template <typename Tile>
float add_tile(const Tile& tile, int t, const ActivationGroup& x, int n, float sum) {
  constexpr int kPartOperands = kOperands / Tile::kParts;
  for (int part = 0; part < Tile::kParts; part++) {
    int32_t dot = 0;
    for (int i = part * kPartOperands; i < (part + 1) * kPartOperands; i++) {
      for (int j = 0; j < 4; j++) dot += (code_at(tile, t, i, 4 * n + j) - Tile::kZero) * x.codes[4 * i + j];
    }
    sum = std::fma(static_cast<float>(dot) * scale_of(tile, t, part, n), x.scale, sum);
  }
  if constexpr (Tile::kZero == 0) sum = std::fma(minimum_of(tile, t, n), x.sum, sum);
  return sum;
}

template <typename Tile>
float dot_product(const Tile* tiles, const ActivationGroup* x, int64_t groups, int n) {
  float sum = 0.0f;
  for (int64_t g = 0; g < groups; g++) {
    sum = add_tile(tiles[g / Tile::kTiles], static_cast<int>(g % Tile::kTiles), x[g], n, sum);
  }
  return sum;
}

template <typename Tile>
void multiply(const Columns& columns, const Rows& rows) {
  const int64_t column_tiles = columns.groups / Tile::kTiles;
  for (int64_t r = 0; r < rows.count; r++) {
    for (int64_t n = 0; n < columns.outputs; n++) {
      const auto* tiles = static_cast<const Tile*>(columns.tiles) + n / kTileOutputs * column_tiles;
      const float sum =
          dot_product(tiles, rows.x + r * rows.ldx, columns.groups, static_cast<int>(n % kTileOutputs));
      const float bias = columns.bias != nullptr ? columns.bias[n] : 0.0f;
      rows.out[r * rows.ldo + n] = sum * columns.unit[n] + bias;
    }
  }
}

float to_float(float value) { return value; }

struct Bf16 {
  uint16_t bits;
};
float to_float(Bf16 value) { return bf16_to_float(value.bits); }
float to_float(Half value) { return half_to_float(value); }

template <typename Value>
void multiply_floats(const FloatColumn& column, const FloatRows& rows) {
  const auto* weights = static_cast<const Value*>(column.weights);
  for (int64_t r = 0; r < rows.count; r++) {
    const float* x = rows.x + r * rows.ldx;
    for (int n = 0; n < column.outputs; n++) {
      float sum = 0.0f;
      for (int64_t k = 0; k < column.inputs; k++) {
        sum = std::fma(to_float(weights[k * kTileOutputs + n]), x[k], sum);
      }
      rows.out[r * rows.ldo + n] = sum + (column.bias != nullptr ? column.bias[n] : 0.0f);
    }
  }
}

void quantize_group(const float* x, int count, ActivationGroup& out) {
  float largest = 0.0f;
  for (int i = 0; i < count; i++) largest = std::fmax(largest, std::fabs(x[i]));
  const float inverse = largest > kSmallestActivation ? 127.0f / largest : 0.0f;
  int32_t sums[2] = {0, 0};
  for (int i = 0; i < kTileInputs; i++) {
    // 1.5 * 2^23 pushes the fraction out of the mantissa: round to nearest even, as the vector conversions
    // do.
    const float rounded = i < count ? (x[i] * inverse + 0x1.8p23f) - 0x1.8p23f : 0.0f;
    out.codes[i] = static_cast<int8_t>(std::fmin(127.0f, std::fmax(-127.0f, rounded)));  // also for NaN
    sums[i / 16] += out.codes[i];
  }
  set_sums(largest, sums[0], sums[1], out);
}

void quantize_row(const float* x, int64_t cols, ActivationGroup* out) {
  for (int64_t k = 0; k < cols; k += kTileInputs) {
    const auto count = static_cast<int>(cols - k < kTileInputs ? cols - k : kTileInputs);
    quantize_group(x + k, count, *out++);
  }
}

}  // namespace

const LinearKernels& linear_kernels_scalar() {
  static constexpr LinearKernels kernels = {
      multiply<TileU4>,      multiply<TileU4Min>,   multiply<TileU5>,       multiply<TileU5Min>,
      multiply<TileU8>,      multiply<BlockU4K>,    multiply<BlockU5K>,     multiply<BlockU6K>,
      multiply_floats<Half>, multiply_floats<Bf16>, multiply_floats<float>, quantize_row};
  return kernels;
}

}  // namespace picert::cpu
