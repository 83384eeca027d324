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

int code_at(const TileU4& tile, int operand, int byte) { return nibble(tile.nibbles, operand, byte); }
int code_at(const TileU4Min& tile, int operand, int byte) { return nibble(tile.nibbles, operand, byte); }
int code_at(const TileU8& tile, int operand, int byte) { return tile.codes[operand][byte]; }

template <typename Tile>  // TileU5, TileU5Min
int code_at(const Tile& tile, int operand, int byte) {
  return nibble(tile.nibbles, operand, byte) | ((tile.fifth[byte] >> operand) & 1) << 4;
}

int code_at(const TileU6& tile, int operand, int byte) {
  const int upper = tile.upper[operand / 4][byte] >> (operand % 4 * 2);
  return nibble(tile.nibbles, operand, byte) | (upper & 3) << 4;
}

// Sum of code * activation over the inputs of operands [first, last).
template <typename Tile>
int32_t dot(const Tile& tile, const ActivationGroup& x, int n, int first, int last) {
  int32_t sum = 0;
  for (int operand = first; operand < last; operand++) {
    for (int j = 0; j < 4; j++) sum += code_at(tile, operand, 4 * n + j) * x.codes[4 * operand + j];
  }
  return sum;
}

// Add one tile's part of output n to `sum`.
template <typename Tile>
float add_tile(const Tile& tile, const ActivationGroup& x, int n, float sum) {
  const int32_t exact = dot(tile, x, n, 0, kOperands) + Tile::kZero * x.minus_total;
  return std::fma(static_cast<float>(exact), half_to_float(tile.scale[n]) * x.scale, sum);
}

template <typename Tile>
float add_tile_with_minimum(const Tile& tile, const ActivationGroup& x, int n, float sum) {
  const auto exact = static_cast<float>(dot(tile, x, n, 0, kOperands));
  sum = std::fma(exact, half_to_float(tile.scale[n]) * x.scale, sum);
  return std::fma(half_to_float(tile.minimum[n]), x.sum, sum);
}

template <>
float add_tile(const TileU6& tile, const ActivationGroup& x, int n, float sum) {
  const int32_t low = dot(tile, x, n, 0, 4) + TileU6::kZero * x.minus_low;
  const int32_t high = dot(tile, x, n, 4, 8) + TileU6::kZero * x.minus_high;
  const float scaled = static_cast<float>(low) * half_to_float(tile.scale[0][n]);
  return std::fma(std::fma(static_cast<float>(high), half_to_float(tile.scale[1][n]), scaled), x.scale, sum);
}

template <>
float add_tile(const TileU4Min& tile, const ActivationGroup& x, int n, float sum) {
  return add_tile_with_minimum(tile, x, n, sum);
}

template <>
float add_tile(const TileU5Min& tile, const ActivationGroup& x, int n, float sum) {
  return add_tile_with_minimum(tile, x, n, sum);
}

template <typename Tile>
void multiply(const Column& column, const Rows& rows) {
  const auto* tiles = static_cast<const Tile*>(column.tiles);
  for (int64_t r = 0; r < rows.count; r++) {
    const ActivationGroup* x = rows.x + r * column.groups;
    for (int n = 0; n < column.outputs; n++) {
      float sum = 0.0f;
      for (int64_t g = 0; g < column.groups; g++) sum = add_tile(tiles[g], x[g], n, sum);
      const float bias = column.bias != nullptr ? column.bias[n] : 0.0f;
      rows.out[r * rows.ldo + n] = sum * column.unit[n] + bias;
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
  int32_t halves[2] = {0, 0};
  for (int i = 0; i < kTileInputs; i++) {
    // 1.5 * 2^23 pushes the fraction out of the mantissa: round to nearest even, as the vector conversions
    // do.
    const float rounded = i < count ? (x[i] * inverse + 0x1.8p23f) - 0x1.8p23f : 0.0f;
    out.codes[i] = static_cast<int8_t>(std::fmin(127.0f, std::fmax(-127.0f, rounded)));  // also for NaN
    halves[i / 16] -= out.codes[i];
  }
  out.minus_low = halves[0];
  out.minus_high = halves[1];
  out.minus_total = out.minus_low + out.minus_high;
  out.scale = largest > kSmallestActivation ? largest * (1.0f / 127.0f) : 0.0f;
  out.sum = -out.scale * static_cast<float>(out.minus_total);
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
      multiply<TileU4>,       multiply<TileU4Min>, multiply<TileU5>,      multiply<TileU5Min>,
      multiply<TileU6>,       multiply<TileU8>,    multiply_floats<Half>, multiply_floats<Bf16>,
      multiply_floats<float>, quantize_row};
  return kernels;
}

}  // namespace picert::cpu
