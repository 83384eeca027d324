// linear_avx2_body.h: the linear kernels for AVX2 with FMA, on the tiles of tiles.h; a tile is two halves of
// 8 outputs. Where the file that includes this is built with AVX-VNNI, dot products use its `vpdpbusd`.
//
// NOTE: only intrinsics and plain data in here, for the reason given in linear_avx512.cpp.
#pragma once

#include "cpu/linear_kernels.h"
#include "cpu/tiles_avx2.h"

namespace picert::cpu {
namespace {

constexpr int64_t kPrefetchBytes = 6 << 10;  // ahead of the tile in work; see linear_avx512.cpp

template <typename Tile>
inline void prefetch(const void* tiles, int64_t g) {
  constexpr int64_t kTileBytes = sizeof(Tile) / Tile::kTiles;
  const char* ahead = static_cast<const char*>(tiles) + g * kTileBytes + kPrefetchBytes;
  for (int64_t at = 0; at < kTileBytes; at += 64) _mm_prefetch(ahead + at, _MM_HINT_T0);
}

inline __m256i quad(const ActivationGroup& x, int operand) {
  int32_t four;
  __builtin_memcpy(&four, x.codes + 4 * operand, sizeof four);
  return _mm256_set1_epi32(four);
}

#ifdef __AVXVNNI__

// acc[r] += the dot product of operands [first, last) with row r.
template <int R, typename Tile>
inline void dot(const Tile& tile, int t, int half, const ActivationGroup* x, int64_t ldx, int first, int last,
                __m256i* acc) {
#pragma GCC unroll 8
  for (int i = first; i < last; i++) {
    const __m256i operand = operand_of(tile, t, i, half);
    for (int r = 0; r < R; r++) acc[r] = _mm256_dpbusd_avx_epi32(acc[r], operand, quad(x[r * ldx], i));
  }
}

#else

// `vpmaddubsw` adds products in pairs to 16 bits: so many operands' pairs fit (|activation| <= 127) before
// they must be widened to 32 bits. 4-bit codes: 8 * 2 * 15 * 127 = 30,480; 5: 4 * 2 * 31 * 127; 6: 2 * 2 * 63
// * 127 = 32,004.
template <typename Tile>
constexpr int kOperandsIn16Bits = 4;
template <>
constexpr int kOperandsIn16Bits<BlockU6K> = 2;

inline __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// acc[r] += the dot product of operands [first, last) with row r.
template <int R, typename Tile>
inline void dot(const Tile& tile, int t, int half, const ActivationGroup* x, int64_t ldx, int first, int last,
                __m256i* acc) {
  constexpr int kStep = kOperandsIn16Bits<Tile>;
#pragma GCC unroll 8
  for (int from = first; from < last; from += kStep) {
    __m256i pairs[R];
    for (int r = 0; r < R; r++) pairs[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = from; i < from + kStep; i++) {
      const __m256i operand = operand_of(tile, t, i, half);
      for (int r = 0; r < R; r++) {
        pairs[r] = _mm256_add_epi16(pairs[r], _mm256_maddubs_epi16(operand, quad(x[r * ldx], i)));
      }
    }
    for (int r = 0; r < R; r++) acc[r] = _mm256_add_epi32(acc[r], widen(pairs[r]));
  }
}

// 8-bit codes would overflow the pairs: their nibbles are multiplied apart, eight operands of 4 bits fit.
template <int R>
inline void dot(const TileU8& tile, int, int half, const ActivationGroup* x, int64_t ldx, int, int,
                __m256i* acc) {
  __m256i low[R], high[R];
  for (int r = 0; r < R; r++) low[r] = high[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int i = 0; i < kOperands; i++) {
    const __m256i codes = load_half(tile.codes[i], half);
    const __m256i low_operand = low_nibbles(codes), high_operand = high_nibbles(codes);
    for (int r = 0; r < R; r++) {
      const __m256i activations = quad(x[r * ldx], i);
      low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(low_operand, activations));
      high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(high_operand, activations));
    }
  }
  for (int r = 0; r < R; r++) {
    const __m256i sixteens = _mm256_slli_epi32(widen(high[r]), 4);
    acc[r] = _mm256_add_epi32(acc[r], _mm256_add_epi32(widen(low[r]), sixteens));
  }
}

#endif

template <typename Tile>
inline __m256i start(const ActivationGroup& x, int part) {
  if constexpr (Tile::kZero == 0)
    return _mm256_set1_epi32(kStart);
  else
    return _mm256_set1_epi32(x.start[Tile::kStartAt + part]);
}

// sum[r] += a half of tile t's part of row r.
template <int R, typename Tile>
inline void add_tile(const Tile& tile, int t, int half, const ActivationGroup* x, int64_t ldx, __m256* sum) {
  constexpr int kPartOperands = kOperands / Tile::kParts;
  for (int part = 0; part < Tile::kParts; part++) {
    __m256i acc[R];
    for (int r = 0; r < R; r++) acc[r] = start<Tile>(x[r * ldx], part);
    dot<R>(tile, t, half, x, ldx, part * kPartOperands, (part + 1) * kPartOperands, acc);
    const __m256 scale = scale_of(tile, t, part, half);
    const __m256 start_value = _mm256_mul_ps(scale, _mm256_set1_ps(kStartValue));
    for (int r = 0; r < R; r++) {
      const __m256 product = _mm256_fmsub_ps(scale, _mm256_castsi256_ps(acc[r]), start_value);
      sum[r] = _mm256_fmadd_ps(product, _mm256_set1_ps(x[r * ldx].scale), sum[r]);
    }
  }
  if constexpr (Tile::kZero == 0) {
    const __m256 minimum = minimum_of(tile, t, half);
    for (int r = 0; r < R; r++) {
      sum[r] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x[r * ldx].sum), sum[r]);
    }
  }
}

// Write the outputs [8 * half, outputs) of 8 sums.
inline void store(__m256 sums, const float* bias, int half, int outputs, float* out) {
  const int first = half * kHalfOutputs;
  if (first + kHalfOutputs <= outputs) {
    if (bias != nullptr) sums = _mm256_add_ps(sums, _mm256_loadu_ps(bias + first));
    _mm256_storeu_ps(out + first, sums);
    return;
  }
  float values[kHalfOutputs];
  _mm256_storeu_ps(values, sums);
  for (int n = first; n < outputs; n++) out[n] = values[n - first] + (bias != nullptr ? bias[n] : 0.0f);
}

// R rows with one column, the first of `columns`: a tile is unpacked once for all of them.
template <int R, typename Tile>
void multiply_rows(const Columns& columns, const ActivationGroup* x, int64_t ldx, float* out, int64_t ldo) {
  const auto* tiles = static_cast<const Tile*>(columns.tiles);
  const int outputs = columns.outputs < kTileOutputs ? static_cast<int>(columns.outputs) : kTileOutputs;
  __m256 sum[2][R];
  for (int r = 0; r < R; r++) sum[0][r] = sum[1][r] = _mm256_setzero_ps();
  for (int64_t g = 0; g < columns.groups; g++) {
    prefetch<Tile>(tiles, g);
    const Tile& tile = tiles[g / Tile::kTiles];
    const auto t = static_cast<int>(g % Tile::kTiles);
    for (int half = 0; half < 2; half++) add_tile<R>(tile, t, half, x + g, ldx, sum[half]);
  }
  for (int half = 0; half < 2; half++) {
    const __m256 unit = _mm256_loadu_ps(columns.unit + half * kHalfOutputs);
    for (int r = 0; r < R; r++) {
      store(_mm256_mul_ps(sum[half][r], unit), columns.bias, half, outputs, out + r * ldo);
    }
  }
}

template <typename Tile>
void multiply_column(const Columns& columns, const Rows& rows) {
  const ActivationGroup* x = rows.x;
  float* out = rows.out;
  int64_t left = rows.count;
  const auto block = [&](auto kernel, int count) {
    kernel(columns, x, rows.ldx, out, rows.ldo);
    x += count * rows.ldx;
    out += count * rows.ldo;
    left -= count;
  };
  while (left >= 4) block(multiply_rows<4, Tile>, 4);
  if (left >= 2) block(multiply_rows<2, Tile>, 2);
  if (left >= 1) block(multiply_rows<1, Tile>, 1);
}

template <typename Tile>
void multiply(const Columns& columns, const Rows& rows) {
  const int64_t column_tiles = columns.groups / Tile::kTiles;
  for (int64_t n = 0; n < columns.outputs; n += kTileOutputs) {
    const float* bias = columns.bias != nullptr ? columns.bias + n : nullptr;
    multiply_column<Tile>({static_cast<const Tile*>(columns.tiles) + n / kTileOutputs * column_tiles,
                           columns.groups, columns.unit + n, bias, columns.outputs - n},
                          {rows.x, rows.ldx, rows.count, rows.out + n, rows.ldo});
  }
}

struct Bf16 {
  uint16_t bits;
};

inline __m256 load_weights(const float* at) { return _mm256_loadu_ps(at); }
inline __m256 load_weights(const Half* at) { return halves(at, 0); }
inline __m256 load_weights(const Bf16* at) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

template <int R, typename Value>
void multiply_float_rows(const FloatColumn& column, const float* x, int64_t ldx, float* out, int64_t ldo) {
  const auto* weights = static_cast<const Value*>(column.weights);
  __m256 sum[2][R];
  for (int r = 0; r < R; r++) sum[0][r] = sum[1][r] = _mm256_setzero_ps();
  for (int64_t k = 0; k < column.inputs; k++) {
    const __m256 low = load_weights(weights + k * kTileOutputs);
    const __m256 high = load_weights(weights + k * kTileOutputs + kHalfOutputs);
    for (int r = 0; r < R; r++) {
      const __m256 value = _mm256_set1_ps(x[r * ldx + k]);
      sum[0][r] = _mm256_fmadd_ps(low, value, sum[0][r]);
      sum[1][r] = _mm256_fmadd_ps(high, value, sum[1][r]);
    }
  }
  for (int half = 0; half < 2; half++) {
    for (int r = 0; r < R; r++) store(sum[half][r], column.bias, half, column.outputs, out + r * ldo);
  }
}

template <typename Value>
void multiply_floats(const FloatColumn& column, const FloatRows& rows) {
  const float* x = rows.x;
  float* out = rows.out;
  int64_t left = rows.count;
  const auto block = [&](auto kernel, int count) {
    kernel(column, x, rows.ldx, out, rows.ldo);
    x += count * rows.ldx;
    out += count * rows.ldo;
    left -= count;
  };
  while (left >= 4) block(multiply_float_rows<4, Value>, 4);
  if (left >= 2) block(multiply_float_rows<2, Value>, 2);
  if (left >= 1) block(multiply_float_rows<1, Value>, 1);
}

inline __m256 largest_of(__m256 a, __m256 b) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return _mm256_max_ps(_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b));
}

inline float reduce_max(__m256 values) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

inline int32_t reduce_add(__m256i values) {
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
  four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 1)));
}

// Codes of 8 values; the limits only matter for infinities and NaN, which become some code and never
// overflow.
inline __m256i codes_of(__m256 values, float inverse) {
  const __m256 scaled = _mm256_mul_ps(values, _mm256_set1_ps(inverse));
  return _mm256_cvtps_epi32(
      _mm256_min_ps(_mm256_max_ps(scaled, _mm256_set1_ps(-127.0f)), _mm256_set1_ps(127.0f)));
}

void quantize_group(const float* x, ActivationGroup& out) {
  const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8);
  const __m256 c = _mm256_loadu_ps(x + 16), d = _mm256_loadu_ps(x + 24);
  const float largest = reduce_max(_mm256_max_ps(largest_of(a, b), largest_of(c, d)));
  const float inverse = largest > kSmallestActivation ? 127.0f / largest : 0.0f;
  const __m256i qa = codes_of(a, inverse), qb = codes_of(b, inverse);
  const __m256i qc = codes_of(c, inverse), qd = codes_of(d, inverse);
  // Packing works within 128-bit lanes: words come out as a0 b0 c0 d0 a1 b1 c1 d1 and are put in order.
  const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(qa, qb), _mm256_packs_epi32(qc, qd));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes), _mm256_permutevar8x32_epi32(mixed, order));
  set_sums(largest, reduce_add(_mm256_add_epi32(qa, qb)), reduce_add(_mm256_add_epi32(qc, qd)), out);
}

void quantize_row(const float* x, int64_t cols, ActivationGroup* out) {
  int64_t k = 0;
  for (; k + kTileInputs <= cols; k += kTileInputs) quantize_group(x + k, *out++);
  if (k == cols) return;
  float padded[kTileInputs] = {};
  __builtin_memcpy(padded, x + k, static_cast<size_t>(cols - k) * sizeof(float));
  quantize_group(padded, *out);
}

constexpr LinearKernels kKernels = {multiply<TileU4>,      multiply<TileU4Min>,    multiply<TileU5>,
                                    multiply<TileU5Min>,   multiply<TileU8>,       multiply<BlockU4K>,
                                    multiply<BlockU5K>,    multiply<BlockU6K>,     multiply_floats<Half>,
                                    multiply_floats<Bf16>, multiply_floats<float>, quantize_row};

}  // namespace
}  // namespace picert::cpu
