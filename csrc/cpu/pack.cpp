// pack.cpp: weights from a file's blocks into the kernels' tiles, on all threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu/activations.h"
#include "cpu/blocks.h"
#include "cpu/float_formats.h"

namespace picert::cpu {
namespace {

static_assert(kGroup == kTileInputs, "a tile takes one group of each of its outputs");

Format format_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return Format::f32;
    case DType::f16:
      return Format::f16;
    case DType::bf16:
      return Format::bf16;
    case DType::q4_0:
      return Format::u4;
    case DType::q4_1:
      return Format::u4_min;
    case DType::q5_0:
      return Format::u5;
    case DType::q5_1:
      return Format::u5_min;
    case DType::q4_k:
      return Format::u4_k;
    case DType::q5_k:
      return Format::u5_k;
    case DType::q6_k:
      return Format::u6_k;
    default:
      return Format::u8;
  }
}

// Bytes of 32 inputs of a column; a K type's block is eight of them.
size_t tile_bytes(Format format) {
  switch (format) {
    case Format::u4:
      return sizeof(TileU4);
    case Format::u4_min:
      return sizeof(TileU4Min);
    case Format::u5:
      return sizeof(TileU5);
    case Format::u5_min:
      return sizeof(TileU5Min);
    case Format::u8:
      return sizeof(TileU8);
    case Format::u4_k:
      return sizeof(BlockU4K) / kBlockTiles;
    case Format::u5_k:
      return sizeof(BlockU5K) / kBlockTiles;
    case Format::u6_k:
      return sizeof(BlockU6K) / kBlockTiles;
    default:
      return 0;
  }
}

size_t column_bytes(Format format, int64_t inputs) {
  if (const size_t tile = tile_bytes(format)) return tile * static_cast<size_t>(num_groups(inputs));
  const size_t value = format == Format::f32 ? sizeof(float) : sizeof(uint16_t);
  return value * kTileOutputs * static_cast<size_t>(inputs);
}

// Four codes of one output are one 32-bit word; the words of 16 outputs make an operand.
uint32_t load_word(const uint8_t* codes, int operand) {
  uint32_t word;
  std::memcpy(&word, codes + 4 * operand, sizeof word);
  return word;
}

void store_word(uint8_t* bytes, int n, uint32_t word) { std::memcpy(bytes + 4 * n, &word, sizeof word); }

void put_nibbles(Nibbles& nibbles, int n, const uint8_t* codes) {
  constexpr uint32_t kLow = 0x0f0f0f0fu;
  for (int s = 0; s < kOperands / 2; s++) {
    store_word(nibbles.packed[s], n, (load_word(codes, s) & kLow) | (load_word(codes, s + 4) & kLow) << 4);
  }
}

void put_fifth(uint8_t* fifth, int n, const uint8_t* codes) {
  uint32_t bits = 0;
  for (int i = 0; i < kOperands; i++) bits |= ((load_word(codes, i) >> 4) & 0x01010101u) << i;
  store_word(fifth, n, bits);
}

void put_codes(TileU4& tile, int n, const uint8_t* codes) { put_nibbles(tile.nibbles, n, codes); }
void put_codes(TileU4Min& tile, int n, const uint8_t* codes) { put_nibbles(tile.nibbles, n, codes); }

template <typename Tile>  // TileU5, TileU5Min
void put_codes(Tile& tile, int n, const uint8_t* codes) {
  put_nibbles(tile.nibbles, n, codes);
  put_fifth(tile.fifth, n, codes);
}

void put_upper(uint8_t (*upper)[kOperandBytes], int n, const uint8_t* codes) {
  for (int plane = 0; plane < 2; plane++) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; i++) {
      bits |= ((load_word(codes, 4 * plane + i) >> 4) & 0x03030303u) << (2 * i);
    }
    store_word(upper[plane], n, bits);
  }
}

void put_codes(TileU8& tile, int n, const uint8_t* codes) {
  for (int i = 0; i < kOperands; i++) store_word(tile.codes[i], n, load_word(codes, i));
}

void put_codes(BlockU4K& block, int t, int n, const uint8_t* codes) {
  put_nibbles(block.nibbles[t], n, codes);
}

void put_codes(BlockU5K& block, int t, int n, const uint8_t* codes) {
  put_nibbles(block.nibbles[t], n, codes);
  put_fifth(block.fifth[t], n, codes);
}

void put_codes(BlockU6K& block, int t, int n, const uint8_t* codes) {
  put_nibbles(block.nibbles[t], n, codes);
  put_upper(block.upper[t], n, codes);
}

template <typename Block>  // BlockU4K, BlockU5K
void put_k_scales(Block& block, int t, int n, const KScales& scales) {
  block.scale[t][n] = static_cast<uint8_t>(scales.scale[0]);
  block.minimum[t][n] = scales.minimum;
  block.d[n] = scales.d;
  block.dmin[n] = scales.dmin;
}

void put_k_scales(BlockU6K& block, int t, int n, const KScales& scales) {
  for (int half = 0; half < 2; half++) block.scale[t][half][n] = scales.scale[half];
  block.d[n] = scales.d;
}

// The scale and minimum of one output's group, kept until the largest is known.
struct Scales {
  float scale;
  float minimum;
};

// The power of two by which `largest` comes to lie in [2^14, 2^15), where fp16 has its full precision and 29
// further octaves below.
float unit_for(float largest) {
  if (!(largest > 0.0f) || !std::isfinite(largest)) return 1.0f;
  int exponent;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::max(exponent - 15, -126));
}

template <typename Tile>
void put_scales(Tile& tile, int n, const Scales& scales, float inverse) {
  tile.scale[n] = float_to_half(scales.scale * inverse);
}

template <typename Tile>
void put_scales_with_minimum(Tile& tile, int n, const Scales& scales, float inverse) {
  tile.scale[n] = float_to_half(scales.scale * inverse);
  tile.minimum[n] = float_to_half(scales.minimum * inverse);
}

void put_scales(TileU4Min& tile, int n, const Scales& scales, float inverse) {
  put_scales_with_minimum(tile, n, scales, inverse);
}

void put_scales(TileU5Min& tile, int n, const Scales& scales, float inverse) {
  put_scales_with_minimum(tile, n, scales, inverse);
}

float largest_of(const Scales& scales) {
  return std::max(std::fabs(scales.scale), std::fabs(scales.minimum));
}

// One column of `outputs` rows from `rows` on into `tiles`, zeros elsewhere, and the outputs' units.
template <typename Tile>
void pack_column(const TensorView& source, const uint8_t* rows, int outputs, Tile* tiles, float* units,
                 std::vector<Scales>& scratch) {
  const GroupReader read = group_reader(source.dtype);
  const int64_t groups = num_groups(source.cols), row_bytes = source.row_bytes();
  float largest[kTileOutputs] = {};
  if (outputs < kTileOutputs)
    std::memset(static_cast<void*>(tiles), 0, static_cast<size_t>(groups) * sizeof(Tile));
  for (int64_t g = 0; g < groups; g++) {
    for (int n = 0; n < outputs; n++) {
      Group group;
      read(rows + n * row_bytes, g, group);
      put_codes(tiles[g], n, group.codes);
      Scales& scales = scratch[static_cast<size_t>(g * kTileOutputs + n)];
      scales = {group.scale[0], group.minimum};
      largest[n] = std::max(largest[n], largest_of(scales));
    }
  }
  for (int n = 0; n < kTileOutputs; n++) units[n] = unit_for(largest[n]);
  for (int64_t g = 0; g < groups; g++) {
    for (int n = 0; n < outputs; n++) {
      put_scales(tiles[g], n, scratch[static_cast<size_t>(g * kTileOutputs + n)], 1.0f / units[n]);
    }
  }
}

// The same for K types, whose scales are kept as they are.
template <typename Block>
void pack_k_column(const TensorView& source, const uint8_t* rows, int outputs, Block* blocks, float* units) {
  const GroupReader read = group_reader(source.dtype);
  const int64_t groups = num_groups(source.cols), row_bytes = source.row_bytes();
  if (outputs < kTileOutputs) {
    std::memset(static_cast<void*>(blocks), 0, static_cast<size_t>(groups / kBlockTiles) * sizeof(Block));
  }
  for (int64_t g = 0; g < groups; g++) {
    Block& block = blocks[g / kBlockTiles];
    const auto t = static_cast<int>(g % kBlockTiles);
    for (int n = 0; n < outputs; n++) {
      const uint8_t* row = rows + n * row_bytes;
      Group group;
      read(row, g, group);
      put_codes(block, t, n, group.codes);
      put_k_scales(block, t, n, read_k_scales(source.dtype, row, g));
    }
  }
  std::fill_n(units, kTileOutputs, 1.0f);
}

template <typename Tile>
void pack_columns(const Worker& worker, const TensorView& source, PackedMatrix::Impl& into) {
  std::vector<Scales> scratch(static_cast<size_t>(num_groups(source.cols) * kTileOutputs));
  const auto [begin, end] = worker.share(source.rows, kTileOutputs);
  for (int64_t first = begin; first < end; first += kTileOutputs) {
    uint8_t* column =
        into.columns.as<uint8_t>() + static_cast<size_t>(first / kTileOutputs) * into.column_bytes;
    const auto outputs = static_cast<int>(std::min<int64_t>(kTileOutputs, end - first));
    const uint8_t* rows = source.data + first * source.row_bytes();
    float* units = into.units.as<float>() + first;
    if constexpr (Tile::kTiles == kBlockTiles) {
      pack_k_column(source, rows, outputs, reinterpret_cast<Tile*>(column), units);
    } else {
      pack_column(source, rows, outputs, reinterpret_cast<Tile*>(column), units, scratch);
    }
  }
}

template <typename Value>
void pack_float_columns(const Worker& worker, const TensorView& source, PackedMatrix::Impl& into) {
  const auto [begin, end] = worker.share(source.rows, kTileOutputs);
  for (int64_t first = begin; first < end; first += kTileOutputs) {
    uint8_t* column =
        into.columns.as<uint8_t>() + static_cast<size_t>(first / kTileOutputs) * into.column_bytes;
    const int64_t outputs = std::min<int64_t>(kTileOutputs, end - first);
    if (outputs < kTileOutputs) std::memset(column, 0, into.column_bytes);
    for (int64_t n = 0; n < outputs; n++) {
      const uint8_t* row = source.data + (first + n) * source.row_bytes();
      for (int64_t k = 0; k < source.cols; k++) {  // the file's bytes need not be aligned
        std::memcpy(column + (k * kTileOutputs + n) * sizeof(Value), row + k * sizeof(Value), sizeof(Value));
      }
    }
  }
}

void pack_share(const Worker& worker, const TensorView& source, PackedMatrix::Impl& into) {
  switch (into.format) {
    case Format::u4:
      return pack_columns<TileU4>(worker, source, into);
    case Format::u4_min:
      return pack_columns<TileU4Min>(worker, source, into);
    case Format::u5:
      return pack_columns<TileU5>(worker, source, into);
    case Format::u5_min:
      return pack_columns<TileU5Min>(worker, source, into);
    case Format::u8:
      return pack_columns<TileU8>(worker, source, into);
    case Format::u4_k:
      return pack_columns<BlockU4K>(worker, source, into);
    case Format::u5_k:
      return pack_columns<BlockU5K>(worker, source, into);
    case Format::u6_k:
      return pack_columns<BlockU6K>(worker, source, into);
    case Format::f32:
      return pack_float_columns<float>(worker, source, into);
    default:
      return pack_float_columns<uint16_t>(worker, source, into);
  }
}

}  // namespace

PackedMatrix::PackedMatrix() = default;
PackedMatrix::~PackedMatrix() = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;

int64_t PackedMatrix::outputs() const { return impl ? impl->outputs : 0; }
int64_t PackedMatrix::inputs() const { return impl ? impl->inputs : 0; }
size_t PackedMatrix::bytes() const { return impl ? impl->columns.bytes() + impl->units.bytes() : 0; }

PackedMatrix pack(const TensorView& source, Isa, ThreadPool& pool) {
  const TypeTraits type = traits(source.dtype);
  PICERT_CHECK(source.rows >= 1 && source.cols >= 1 && source.cols % type.block_values == 0, "matrix is ",
               source.rows, " x ", source.cols, ": sizes must be positive and columns a multiple of ",
               type.block_values);
  PackedMatrix packed;
  packed.impl = std::make_unique<PackedMatrix::Impl>();
  PackedMatrix::Impl& into = *packed.impl;
  into.format = format_of(source.dtype);
  into.outputs = source.rows;
  into.inputs = source.cols;
  into.column_bytes = column_bytes(into.format, source.cols);
  const auto columns = static_cast<size_t>((source.rows + kTileOutputs - 1) / kTileOutputs);
  into.columns = AlignedBuffer(columns * into.column_bytes);
  into.units = AlignedBuffer(columns * kTileOutputs * sizeof(float));
  pool.run([&](const Worker& worker) { pack_share(worker, source, into); });
  return packed;
}

}  // namespace picert::cpu
