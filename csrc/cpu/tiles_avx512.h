// tiles_avx512.h: codes, scales and minima of each tile format as AVX-512 registers; for linear_avx512.cpp.
#pragma once

// GCC 12 takes the "undefined" operand inside its own intrinsics for an uninitialised variable (GCC bug
// 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "cpu/tiles.h"

namespace picert::cpu {
namespace {

inline __m512 halves(const Half* values) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
}

inline __m128i load16(const void* bytes) { return _mm_loadu_si128(static_cast<const __m128i*>(bytes)); }

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

inline __m512i five_bit_operand(const Nibbles& nibbles, const uint8_t* fifth, int i) {
  const __m512i bits = shift(_mm512_loadu_si512(fifth), i - 4);
  return or_and(nibble_operand(nibbles, i), bits, _mm512_set1_epi8(16));
}

// Operand i of tile t.
inline __m512i operand_of(const TileU4& tile, int, int i) { return nibble_operand(tile.nibbles, i); }
inline __m512i operand_of(const TileU4Min& tile, int, int i) { return nibble_operand(tile.nibbles, i); }
inline __m512i operand_of(const TileU8& tile, int, int i) { return _mm512_loadu_si512(tile.codes[i]); }
inline __m512i operand_of(const TileU5& tile, int, int i) {
  return five_bit_operand(tile.nibbles, tile.fifth, i);
}
inline __m512i operand_of(const TileU5Min& tile, int, int i) {
  return five_bit_operand(tile.nibbles, tile.fifth, i);
}
inline __m512i operand_of(const BlockU4K& block, int t, int i) { return nibble_operand(block.nibbles[t], i); }
inline __m512i operand_of(const BlockU5K& block, int t, int i) {
  return five_bit_operand(block.nibbles[t], block.fifth[t], i);
}
inline __m512i operand_of(const BlockU6K& block, int t, int i) {
  const __m512i bits = shift(_mm512_loadu_si512(block.upper[t][i / 4]), i % 4 * 2 - 4);
  return or_and(nibble_operand(block.nibbles[t], i), bits, _mm512_set1_epi8(48));
}

// factor * 16 small integers.
inline __m512 scaled(__m512 factor, __m512i integers) {
  return _mm512_mul_ps(factor, _mm512_cvtepi32_ps(integers));
}
inline __m512 scaled(__m512 factor, const uint8_t* bytes) {
  return scaled(factor, _mm512_cvtepu8_epi32(load16(bytes)));
}
inline __m512 scaled(__m512 factor, const int8_t* bytes) {
  return scaled(factor, _mm512_cvtepi8_epi32(load16(bytes)));
}

// The scales of a part of tile t.
template <typename Tile>
inline __m512 scale_of(const Tile& tile, int, int) {
  return halves(tile.scale);
}
inline __m512 scale_of(const BlockU4K& block, int t, int) { return scaled(halves(block.d), block.scale[t]); }
inline __m512 scale_of(const BlockU5K& block, int t, int) { return scaled(halves(block.d), block.scale[t]); }
inline __m512 scale_of(const BlockU6K& block, int t, int part) {
  return scaled(halves(block.d), block.scale[t][part]);
}

inline __m512 negated(__m512 values) { return _mm512_xor_ps(values, _mm512_set1_ps(-0.0f)); }

// The minima of tile t of a format without a zero.
template <typename Tile>
inline __m512 minimum_of(const Tile& tile, int) {
  return halves(tile.minimum);
}
inline __m512 minimum_of(const BlockU4K& block, int t) {
  return scaled(negated(halves(block.dmin)), block.minimum[t]);
}
inline __m512 minimum_of(const BlockU5K& block, int t) {
  return scaled(negated(halves(block.dmin)), block.minimum[t]);
}

}  // namespace
}  // namespace picert::cpu
