// linear_avx512.cpp: the linear kernels for AVX-512 with VNNI, on the tiles of tiles.h.
//
// NOTE: only intrinsics and plain data in here. This file is built with AVX-512 flags, and an inline function
// of the standard library instantiated here could be the copy that the linker keeps for machines without
// AVX-512.

#include "cpu/linear_kernels.h"
#include "cpu/tiles_avx512.h"

namespace picert::cpu {
namespace {

// Bytes ahead of the tile in work that are asked for: more than a block of a K type, whose tiles lie in
// pieces. With one row, 6 KiB read memory 20 to 30 % faster than 1.25 KiB; more gained nothing.
constexpr int64_t kPrefetchBytes = 6 << 10;

// Rows that share one reading of a tile: an integer and a float sum each, in 32 registers.
constexpr int kBlockRows = 12;

// A tile in its format: operands are unpacked as they are asked for.
template <typename Tile>
struct PackedTile {
  const Tile& block;
  int t;
  __m512i operand(int i) const { return operand_of(block, t, i); }
  __m512 scale(int part) const { return scale_of(block, t, part); }
  __m512 minimum() const { return minimum_of(block, t); }
};

// Tile g of a column.
template <typename Tile>
inline PackedTile<Tile> tile_at(const Tile* column, int64_t g) {
  return {column[g / Tile::kTiles], static_cast<int>(g % Tile::kTiles)};
}

template <typename Tile>
inline void prefetch(const Tile* column, int64_t g) {
  constexpr int64_t kTileBytes = sizeof(Tile) / Tile::kTiles;
  const char* ahead = reinterpret_cast<const char*>(column) + g * kTileBytes + kPrefetchBytes;
#pragma GCC unroll 9
  for (int64_t at = 0; at < kTileBytes; at += 64) _mm_prefetch(ahead + at, _MM_HINT_T0);
}

typedef int32_t __attribute__((may_alias)) Quad;  // four codes

// acc + the dot product of an operand with codes 4 * i .. 4 * i + 3 of a group, for all outputs.
// NOTE: as assembly, since GCC does not fold the broadcast into the instruction, and where two threads share
// a core the instructions that it decodes bind.
inline __m512i add_dot(__m512i acc, __m512i operand, const ActivationGroup& x, int i) {
  const Quad* quad = reinterpret_cast<const Quad*>(x.codes) + i;
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(operand), "m"(*quad));
  return acc;
}

constexpr int32_t kNoZeroStart = kStart;

template <typename Tile>
inline const int32_t& start_of(const ActivationGroup& x, int part) {
  if constexpr (Tile::kZero == 0) {
    return kNoZeroStart;
  } else {
    return x.start[Tile::kStartAt + part];
  }
}

// NOTE: volatile, so that every sum's start is loaded: the compiler would load one and copy it, and copies
// between registers go through the ports that multiply.
inline __m512i load_start(const int32_t& start) {
  __m512i all;
  asm volatile("vpbroadcastd %1, %0" : "=v"(all) : "m"(start));
  return all;
}

// sum[r] += one tile's part of row r.
template <int R, typename Tile>
inline void add_tile(const PackedTile<Tile>& tile, const ActivationGroup* x, int64_t ldx, __m512* sum) {
  constexpr int kPartOperands = kOperands / Tile::kParts;
#pragma GCC unroll 2
  for (int part = 0; part < Tile::kParts; part++) {
    __m512i acc[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) acc[r] = load_start(start_of<Tile>(x[r * ldx], part));
#pragma GCC unroll 8
    for (int i = part * kPartOperands; i < (part + 1) * kPartOperands; i++) {
      const __m512i operand = tile.operand(i);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) acc[r] = add_dot(acc[r], operand, x[r * ldx], i);
    }
    const __m512 scale = tile.scale(part), offset = _mm512_mul_ps(scale, _mm512_set1_ps(kStartValue));
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      const __m512 product = _mm512_fmsub_ps(scale, _mm512_castsi512_ps(acc[r]), offset);
      sum[r] = _mm512_fmadd_ps(product, _mm512_set1_ps(x[r * ldx].scale), sum[r]);
    }
  }
  if constexpr (Tile::kZero == 0) {
    const __m512 minimum = tile.minimum();
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x[r * ldx].sum), sum[r]);
    }
  }
}

// What becomes of a column's sums.
struct Output {
  __m512 unit, bias;
  __mmask16 mask;
  void store(__m512 sum, float* out) const {
    _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(_mm512_mul_ps(sum, unit), bias));
  }
};

// Of the column that begins with output n.
inline Output output_of(const Columns& columns, int64_t n) {
  const int64_t left = columns.outputs - n;
  const auto mask = static_cast<__mmask16>(left < kTileOutputs ? (1u << left) - 1 : 0xffffu);
  const __m512 unit = _mm512_loadu_ps(columns.unit + n);
  if (columns.bias == nullptr) return {unit, _mm512_setzero_ps(), mask};
  return {unit, _mm512_maskz_loadu_ps(mask, columns.bias + n), mask};
}

// Calls visit(first, block) with block.kRows rows from `first` on until all are done. 16 are 8 and 8, since
// 4 alone would not keep the integer units busy.
template <int R>
struct Block {
  static constexpr int kRows = R;
};
template <typename Visit>
inline void for_each_block(int64_t rows, const Visit& visit) {
  int64_t first = 0;
  const auto block = [&](auto size) {
    visit(first, size);
    first += size.kRows;
  };
  while (rows - first >= kBlockRows && rows - first != 16) block(Block<kBlockRows>());
  while (rows - first >= 8) block(Block<8>());
  if (rows - first >= 4) block(Block<4>());
  if (rows - first >= 2) block(Block<2>());
  if (rows - first >= 1) block(Block<1>());
}

// R rows with a column, straight from its tiles.
template <int R, typename Tile>
void multiply_rows(const Tile* column, int64_t groups, const ActivationGroup* x, int64_t ldx,
                   const Output& output, float* out, int64_t ldo) {
  __m512 sum[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) sum[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; g++) {
    prefetch(column, g);
    add_tile<R, Tile>(tile_at(column, g), x + g, ldx, sum);
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) output.store(sum[r], out + r * ldo);
}

// All rows with all columns: a block of rows stays in the nearest caches while the columns go by. A tile is
// unpacked anew for each block, which costs a tenth of the block's multiplications; keeping unpacked tiles
// for many rows instead made those rows pass by for each column, from further away: 5 to 25 % slower (Q4_1,
// Q4_K, Q5_0 at 16 to 512 rows).
template <typename Tile>
void multiply(const Columns& columns, const Rows& rows) {
  for_each_block(rows.count, [&](int64_t first, auto block) {
    const auto* column = static_cast<const Tile*>(columns.tiles);
    for (int64_t n = 0; n < columns.outputs; n += kTileOutputs, column += columns.groups / Tile::kTiles) {
      multiply_rows<block.kRows>(column, columns.groups, rows.x + first * rows.ldx, rows.ldx,
                                 output_of(columns, n), rows.out + first * rows.ldo + n, rows.ldo);
    }
  });
}

struct Bf16 {
  uint16_t bits;
};

inline __m512 load_weights(const float* at) { return _mm512_loadu_ps(at); }
inline __m512 load_weights(const Half* at) { return halves(at); }
inline __m512 load_weights(const Bf16* at) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

template <int R, typename Value>
void multiply_float_rows(const FloatColumn& column, __mmask16 mask, const float* x, int64_t ldx, float* out,
                         int64_t ldo) {
  const auto* weights = static_cast<const Value*>(column.weights);
  __m512 sum[R];
  for (int r = 0; r < R; r++) sum[r] = _mm512_setzero_ps();
  for (int64_t k = 0; k < column.inputs; k++) {
    const __m512 w = load_weights(weights + k * kTileOutputs);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) sum[r] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[r * ldx + k]), sum[r]);
  }
  const __m512 bias = column.bias != nullptr ? _mm512_maskz_loadu_ps(mask, column.bias) : _mm512_setzero_ps();
  for (int r = 0; r < R; r++) _mm512_mask_storeu_ps(out + r * ldo, mask, _mm512_add_ps(sum[r], bias));
}

template <typename Value>
void multiply_floats(const FloatColumn& column, const FloatRows& rows) {
  const auto mask = static_cast<__mmask16>((1u << column.outputs) - 1);
  const float* x = rows.x;
  float* out = rows.out;
  int64_t left = rows.count;
  const auto block = [&](auto kernel, int count) {
    kernel(column, mask, x, rows.ldx, out, rows.ldo);
    x += count * rows.ldx;
    out += count * rows.ldo;
    left -= count;
  };
  while (left >= 8) block(multiply_float_rows<8, Value>, 8);
  if (left >= 4) block(multiply_float_rows<4, Value>, 4);
  if (left >= 2) block(multiply_float_rows<2, Value>, 2);
  if (left >= 1) block(multiply_float_rows<1, Value>, 1);
}

// Codes of 16 values; the limits only matter for infinities and NaN, which become some code and never
// overflow.
inline __m512i codes_of(__m512 values, float inverse) {
  const __m512 scaled = _mm512_mul_ps(values, _mm512_set1_ps(inverse));
  return _mm512_cvtps_epi32(
      _mm512_min_ps(_mm512_max_ps(scaled, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f)));
}

// `low` and `high` are the 16 first and last values of the group.
inline void quantize_group(__m512 low, __m512 high, ActivationGroup& out) {
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
  const float inverse = largest > kSmallestActivation ? 127.0f / largest : 0.0f;
  const __m512i low_codes = codes_of(low, inverse), high_codes = codes_of(high, inverse);
  const __m256i codes = _mm256_set_m128i(_mm512_cvtepi32_epi8(high_codes), _mm512_cvtepi32_epi8(low_codes));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes), codes);
  const __m256i fours = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), codes);
  const __m128i pairs = _mm_hadd_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
  const __m128i sums = _mm_hadd_epi32(pairs, pairs);  // low, high
  set_sums(largest, _mm_cvtsi128_si32(sums), _mm_extract_epi32(sums, 1), out);
}

void quantize_row(const float* x, int64_t cols, ActivationGroup* out) {
  int64_t k = 0;
  for (; k + kTileInputs <= cols; k += kTileInputs) {
    quantize_group(_mm512_loadu_ps(x + k), _mm512_loadu_ps(x + k + 16), *out++);
  }
  if (k == cols) return;
  const auto present = static_cast<uint32_t>((uint64_t{1} << (cols - k)) - 1);
  quantize_group(_mm512_maskz_loadu_ps(static_cast<__mmask16>(present), x + k),
                 _mm512_maskz_loadu_ps(static_cast<__mmask16>(present >> 16), x + k + 16), *out);
}

}  // namespace

const LinearKernels& linear_kernels_avx512() {
  static constexpr LinearKernels kernels = {
      multiply<TileU4>,      multiply<TileU4Min>,   multiply<TileU5>,       multiply<TileU5Min>,
      multiply<TileU8>,      multiply<BlockU4K>,    multiply<BlockU5K>,     multiply<BlockU6K>,
      multiply_floats<Half>, multiply_floats<Bf16>, multiply_floats<float>, quantize_row};
  return kernels;
}

}  // namespace picert::cpu
