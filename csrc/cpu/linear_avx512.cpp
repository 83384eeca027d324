// linear_avx512.cpp: the linear kernels for AVX-512 with VNNI, on the tiles of tiles.h.
//
// NOTE: only intrinsics and plain data in here. This file is built with AVX-512 flags, and an inline function
// of the standard library instantiated here could be the copy that the linker keeps for machines without
// AVX-512.

// GCC 12 takes the "undefined" operand inside its own intrinsics for an uninitialised variable (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "cpu/linear_kernels.h"

namespace picert::cpu {
namespace {

// Tiles ahead of the one in work that are asked for: about 1.3 KiB, which covers the latency of memory for
// one row.
constexpr int kPrefetchTiles = 4;

// Rows that share one unpacking of a tile: an integer and a float sum each, in 32 registers. TileU6 has a
// second float.
template <typename Tile>
constexpr int kWideRows = 12;
template <>
constexpr int kWideRows<TileU6> = 8;

template <typename Tile>
inline void prefetch(const Tile& tile) {
  const char* bytes = reinterpret_cast<const char*>(&tile);
  for (size_t at = 0; at < sizeof(Tile); at += 64) _mm_prefetch(bytes + at, _MM_HINT_T0);
}

inline __m512 halves(const Half* values) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}

inline __m512i nibble_operand(const Nibbles& nibbles, int operand) {
  const __m512i packed = _mm512_loadu_si512(nibbles.packed[operand % 4]);
  return _mm512_and_si512(operand < 4 ? packed : _mm512_srli_epi16(packed, 4), _mm512_set1_epi8(15));
}

// value | (bits & mask): one instruction.
inline __m512i or_and(__m512i value, __m512i bits, __m512i mask) {
  return _mm512_ternarylogic_epi32(value, bits, mask, 0xF8);
}

// Shift 16-bit lanes right by `count`, or left where it is negative.
inline __m512i shift(__m512i value, int count) {
  if (count >= 0) return _mm512_srli_epi16(value, static_cast<unsigned>(count));
  return _mm512_slli_epi16(value, static_cast<unsigned>(-count));
}

inline __m512i operand_of(const TileU4& tile, int i) { return nibble_operand(tile.nibbles, i); }
inline __m512i operand_of(const TileU4Min& tile, int i) { return nibble_operand(tile.nibbles, i); }
inline __m512i operand_of(const TileU8& tile, int i) { return _mm512_loadu_si512(tile.codes[i]); }

template <typename Tile>  // TileU5, TileU5Min
inline __m512i operand_of(const Tile& tile, int i) {
  const __m512i fifth = shift(_mm512_loadu_si512(tile.fifth), i - 4);
  return or_and(nibble_operand(tile.nibbles, i), fifth, _mm512_set1_epi8(16));
}

inline __m512i operand_of(const TileU6& tile, int i) {
  const __m512i upper = shift(_mm512_loadu_si512(tile.upper[i / 4]), i % 4 * 2 - 4);
  return or_and(nibble_operand(tile.nibbles, i), upper, _mm512_set1_epi8(48));
}

inline __m512i quad(const ActivationGroup& x, int operand) {
  int32_t four;
  __builtin_memcpy(&four, x.codes + 4 * operand, sizeof four);
  return _mm512_set1_epi32(four);
}

// acc[r] += the dot product of operands [first, last) with row r.
template <int R, typename Tile>
inline void dot(const Tile& tile, const ActivationGroup* x, int64_t groups, int first, int last,
                __m512i* acc) {
#pragma GCC unroll 8
  for (int i = first; i < last; i++) {
    const __m512i operand = operand_of(tile, i);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) acc[r] = _mm512_dpbusd_epi32(acc[r], operand, quad(x[r * groups], i));
  }
}

// zero * -total, from where a symmetric type's integer sum starts.
template <int kZero>
inline __m512i start(int32_t minus_total) {
  static_assert((kZero & (kZero - 1)) == 0, "a shift stands for the product");
  return _mm512_slli_epi32(_mm512_set1_epi32(minus_total), __builtin_ctz(kZero));
}

// sum[r] += one tile's part of row r, for types with a zero.
template <int R, typename Tile>
inline void add_tile(const Tile& tile, const ActivationGroup* x, int64_t groups, __m512* sum) {
  __m512i acc[R];
  for (int r = 0; r < R; r++) acc[r] = start<Tile::kZero>(x[r * groups].minus_total);
  dot<R>(tile, x, groups, 0, kOperands, acc);
  const __m512 scale = halves(tile.scale);
  for (int r = 0; r < R; r++) {
    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x[r * groups].scale));
    sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r]), both, sum[r]);
  }
}

template <int R, typename Tile>
inline void add_tile_with_minimum(const Tile& tile, const ActivationGroup* x, int64_t groups, __m512* sum) {
  __m512i acc[R];
  for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_si512();
  dot<R>(tile, x, groups, 0, kOperands, acc);
  const __m512 scale = halves(tile.scale), minimum = halves(tile.minimum);
  for (int r = 0; r < R; r++) {
    const ActivationGroup& group = x[r * groups];
    const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(group.scale));
    sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r]), both, sum[r]);
    sum[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(group.sum), sum[r]);
  }
}

template <int R>
inline void add_tile(const TileU4Min& tile, const ActivationGroup* x, int64_t groups, __m512* sum) {
  add_tile_with_minimum<R>(tile, x, groups, sum);
}

template <int R>
inline void add_tile(const TileU5Min& tile, const ActivationGroup* x, int64_t groups, __m512* sum) {
  add_tile_with_minimum<R>(tile, x, groups, sum);
}

template <int R>
inline void add_tile(const TileU6& tile, const ActivationGroup* x, int64_t groups, __m512* sum) {
  __m512i acc[R];
  __m512 scaled[R];
  for (int r = 0; r < R; r++) acc[r] = start<TileU6::kZero>(x[r * groups].minus_low);
  dot<R>(tile, x, groups, 0, 4, acc);
  const __m512 low = halves(tile.scale[0]);
  for (int r = 0; r < R; r++) scaled[r] = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[r]), low);
  for (int r = 0; r < R; r++) acc[r] = start<TileU6::kZero>(x[r * groups].minus_high);
  dot<R>(tile, x, groups, 4, 8, acc);
  const __m512 high = halves(tile.scale[1]);
  for (int r = 0; r < R; r++) {
    scaled[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[r]), high, scaled[r]);
    sum[r] = _mm512_fmadd_ps(scaled[r], _mm512_set1_ps(x[r * groups].scale), sum[r]);
  }
}

// R rows with one column: a tile is unpacked once for all of them.
template <int R, typename Tile>
void multiply_rows(const Column& column, __mmask16 mask, const ActivationGroup* x, float* out, int64_t ldo) {
  const auto* tiles = static_cast<const Tile*>(column.tiles);
  __m512 sum[R];
  for (int r = 0; r < R; r++) sum[r] = _mm512_setzero_ps();
  for (int64_t g = 0; g < column.groups; g++) {
    prefetch(tiles[g + kPrefetchTiles]);
    add_tile<R>(tiles[g], x + g, column.groups, sum);
  }
  const __m512 unit = _mm512_loadu_ps(column.unit);
  const __m512 bias = column.bias != nullptr ? _mm512_maskz_loadu_ps(mask, column.bias) : _mm512_setzero_ps();
  for (int r = 0; r < R; r++) {
    _mm512_mask_storeu_ps(out + r * ldo, mask, _mm512_add_ps(_mm512_mul_ps(sum[r], unit), bias));
  }
}

template <typename Tile>
void multiply(const Column& column, const Rows& rows) {
  const auto mask = static_cast<__mmask16>((1u << column.outputs) - 1);
  const ActivationGroup* x = rows.x;
  float* out = rows.out;
  int64_t left = rows.count;
  const auto block = [&](auto kernel, int count) {
    kernel(column, mask, x, out, rows.ldo);
    x += count * column.groups;
    out += count * rows.ldo;
    left -= count;
  };
  constexpr int kWide = kWideRows<Tile>;
  while (left >= kWide) block(multiply_rows<kWide, Tile>, kWide);
  if (left >= 8) block(multiply_rows<8, Tile>, 8);
  if (left >= 4) block(multiply_rows<4, Tile>, 4);
  if (left >= 2) block(multiply_rows<2, Tile>, 2);
  if (left >= 1) block(multiply_rows<1, Tile>, 1);
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
  out.minus_low = -_mm_cvtsi128_si32(sums);
  out.minus_high = -_mm_extract_epi32(sums, 1);
  out.minus_total = out.minus_low + out.minus_high;
  out.scale = largest > kSmallestActivation ? largest * (1.0f / 127.0f) : 0.0f;
  out.sum = -out.scale * static_cast<float>(out.minus_total);
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
      multiply<TileU4>,       multiply<TileU4Min>, multiply<TileU5>,      multiply<TileU5Min>,
      multiply<TileU6>,       multiply<TileU8>,    multiply_floats<Half>, multiply_floats<Bf16>,
      multiply_floats<float>, quantize_row};
  return kernels;
}

}  // namespace picert::cpu
