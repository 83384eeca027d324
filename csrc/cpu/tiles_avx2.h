// tiles_avx2.h: codes, scales and minima of each tile format as AVX2 registers, 8 outputs (a half) at a time;
// for linear_avx2.cpp.
#pragma once

#include <immintrin.h>

#include "cpu/tiles.h"

namespace picert::cpu {
namespace {

constexpr int kHalfOutputs = 8;
constexpr int kHalfBytes = 32;

inline __m256i load_half(const uint8_t* operand, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(operand + half * kHalfBytes));
}

inline __m256 halves(const Half* values, int half) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values + half * kHalfOutputs)));
}

inline __m256i low_nibbles(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i bytes) { return low_nibbles(_mm256_srli_epi16(bytes, 4)); }

inline __m256i nibble_operand(const Nibbles& nibbles, int i, int half) {
  const __m256i packed = load_half(nibbles.packed[i % 4], half);
  return i < 4 ? low_nibbles(packed) : high_nibbles(packed);
}

// Shift 16-bit lanes right by `count`, or left where it is negative.
inline __m256i shift(__m256i value, int count) {
  return count >= 0 ? _mm256_srli_epi16(value, count) : _mm256_slli_epi16(value, -count);
}

inline __m256i or_and(__m256i value, __m256i bits, __m256i mask) {
  return _mm256_or_si256(value, _mm256_and_si256(bits, mask));
}

inline __m256i five_bit_operand(const Nibbles& nibbles, const uint8_t* fifth, int i, int half) {
  const __m256i bits = shift(load_half(fifth, half), i - 4);
  return or_and(nibble_operand(nibbles, i, half), bits, _mm256_set1_epi8(16));
}

// Operand i of tile t.
template <typename Tile>  // TileU4, TileU4Min
inline __m256i operand_of(const Tile& tile, int, int i, int half) {
  return nibble_operand(tile.nibbles, i, half);
}
inline __m256i operand_of(const TileU8& tile, int, int i, int half) { return load_half(tile.codes[i], half); }
inline __m256i operand_of(const TileU5& tile, int, int i, int half) {
  return five_bit_operand(tile.nibbles, tile.fifth, i, half);
}
inline __m256i operand_of(const TileU5Min& tile, int, int i, int half) {
  return five_bit_operand(tile.nibbles, tile.fifth, i, half);
}
inline __m256i operand_of(const BlockU4K& block, int t, int i, int half) {
  return nibble_operand(block.nibbles[t], i, half);
}
inline __m256i operand_of(const BlockU5K& block, int t, int i, int half) {
  return five_bit_operand(block.nibbles[t], block.fifth[t], i, half);
}
inline __m256i operand_of(const BlockU6K& block, int t, int i, int half) {
  const __m256i bits = shift(load_half(block.upper[t][i / 4], half), i % 4 * 2 - 4);
  return or_and(nibble_operand(block.nibbles[t], i, half), bits, _mm256_set1_epi8(48));
}

inline __m128i load8(const void* bytes) { return _mm_loadl_epi64(static_cast<const __m128i*>(bytes)); }

// factor * 8 small integers.
inline __m256 scaled(__m256 factor, __m256i integers) {
  return _mm256_mul_ps(factor, _mm256_cvtepi32_ps(integers));
}
inline __m256 scaled(const Half* factors, const uint8_t* bytes, int half) {
  return scaled(halves(factors, half), _mm256_cvtepu8_epi32(load8(bytes + half * kHalfOutputs)));
}
inline __m256 scaled(const Half* factors, const int8_t* bytes, int half) {
  return scaled(halves(factors, half), _mm256_cvtepi8_epi32(load8(bytes + half * kHalfOutputs)));
}

// The scales of a part of tile t.
template <typename Tile>
inline __m256 scale_of(const Tile& tile, int, int, int half) {
  return halves(tile.scale, half);
}
inline __m256 scale_of(const BlockU4K& block, int t, int, int half) {
  return scaled(block.d, block.scale[t], half);
}
inline __m256 scale_of(const BlockU5K& block, int t, int, int half) {
  return scaled(block.d, block.scale[t], half);
}
inline __m256 scale_of(const BlockU6K& block, int t, int part, int half) {
  return scaled(block.d, block.scale[t][part], half);
}

inline __m256 negated(__m256 values) { return _mm256_xor_ps(values, _mm256_set1_ps(-0.0f)); }

// The minima of tile t of a format without a zero.
template <typename Tile>
inline __m256 minimum_of(const Tile& tile, int, int half) {
  return halves(tile.minimum, half);
}
inline __m256 minimum_of(const BlockU4K& block, int t, int half) {
  return negated(scaled(block.dmin, block.minimum[t], half));
}
inline __m256 minimum_of(const BlockU5K& block, int t, int half) {
  return negated(scaled(block.dmin, block.minimum[t], half));
}

}  // namespace
}  // namespace picert::cpu
