// attention_product.h: the small matrix products of attention over `Vec`. Include a vec_<isa>.h first.
#pragma once

#include <cstdint>

namespace picert::cpu {
namespace {

// Right-hand sides of products: `at(k, j)` is vector j of row k.
struct FloatRows {  // fp32, rows `stride` apart
  const float* data;
  int64_t stride;
  Vec at(int64_t k, int j) const { return load(data + k * stride + j * Vec::kWidth); }
};
struct HalfRows {  // fp16, rows `stride` apart
  const uint16_t* data;
  int64_t stride;
  Vec at(int64_t k, int j) const { return load_half(data + k * stride + j * Vec::kWidth); }
};
template <int kVecs>
struct HalfColumns {  // fp16, each vector of a row in a place of its own
  const uint16_t* data[kVecs];
  int64_t stride;
  Vec at(int64_t k, int j) const { return load_half(data[j] + k * stride); }
};

// c[kRows, kVecs vectors] += a[kRows, inner] · right[inner, kVecs vectors]. Each element is one chain of
// fused multiply-adds in the order of `inner`, so its bits do not depend on the tile it falls into.
template <int kRows, int kVecs, typename Right>
inline void product_tile(const float* a, int64_t lda, const Right& right, int64_t inner, float* c,
                         int64_t ldc) {
  Vec sums[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) sums[r][j] = load(c + r * ldc + j * Vec::kWidth);
  }
  for (int64_t k = 0; k < inner; k++) {
    Vec row[kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) row[j] = right.at(k, j);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const Vec left = splat(a[r * lda + k]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; j++) sums[r][j] = fma(left, row[j], sums[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) store(c + r * ldc + j * Vec::kWidth, sums[r][j]);
  }
}

template <int kNumber>
struct Count {
  static constexpr int kValue = kNumber;
};

// body(Count<n>, first row) for tiles of n <= kTileRows rows that cover 0..rows as evenly as can be: 7 are 4
// + 3.
template <typename Body>
inline void for_row_tiles(int64_t rows, Body body) {
  static_assert(Vec::kTileRows == 6, "one case per number of rows");
  int64_t first = 0;
  for (int64_t tiles = (rows + 5) / 6; tiles > 0; tiles--) {
    const int64_t n = (rows - first + tiles - 1) / tiles;
    switch (n) {
      case 1:
        body(Count<1>{}, first);
        break;
      case 2:
        body(Count<2>{}, first);
        break;
      case 3:
        body(Count<3>{}, first);
        break;
      case 4:
        body(Count<4>{}, first);
        break;
      case 5:
        body(Count<5>{}, first);
        break;
      default:
        body(Count<6>{}, first);
    }
    first += n;
  }
}

// c[rows, cols] += a[rows, inner] · right[inner, cols]; `right` is FloatRows or HalfRows, cols whole vectors.
template <typename Right>
void product(const float* a, int64_t lda, const Right& right, int64_t inner, float* c, int64_t ldc,
             int64_t rows, int64_t cols) {
  constexpr int64_t kCols = Vec::kTileVecs * Vec::kWidth;
  for_row_tiles(rows, [&](auto count, int64_t first) {
    constexpr int kRows = decltype(count)::kValue;
    const float* left = a + first * lda;
    float* out = c + first * ldc;
    int64_t j = 0;
    for (; j + kCols <= cols; j += kCols) {
      const Right part = {right.data + j, right.stride};
      product_tile<kRows, Vec::kTileVecs>(left, lda, part, inner, out + j, ldc);
    }
    for (; j < cols; j += Vec::kWidth) {
      const Right part = {right.data + j, right.stride};
      product_tile<kRows, 1>(left, lda, part, inner, out + j, ldc);
    }
  });
}

}  // namespace
}  // namespace picert::cpu
