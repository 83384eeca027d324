// attention_product.h: the small matrix products of attention over `Vec`. Include a vec_<isa>.h first.
#pragma once

#include <cstddef>
#include <cstdint>

namespace picert::cpu {
namespace {

// Right-hand sides of products: `at(k, j)` is vector j of row k.
struct FloatRows {  // fp32, rows `stride` apart
  const float* data;
  int64_t stride;
  Vec at(int64_t k, int j) const { return load(data + k * stride + j * Vec::kWidth); }
};
// Numbers of pages, each vector of a row in a place of its own. Reading one asks for the numbers `ahead`
// bytes further on, which are needed next: pages are scattered, so the hardware does not see them coming.
template <typename Number, int kVecs>
struct PageRows {
  const Number* data[kVecs];
  ptrdiff_t ahead[kVecs];
  int64_t stride;
  Vec at(int64_t k, int j) const {
    const Number* here = data[j] + k * stride;
    __builtin_prefetch(reinterpret_cast<const char*>(here) + ahead[j]);
    return widen(here);
  }
};

// A register tile of sums.
template <int kRows, int kVecs>
struct Tile {
  Vec sums[kRows][kVecs];
};

template <int kRows, int kVecs>
inline void clear(Tile<kRows, kVecs>& tile) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) tile.sums[r][j] = splat(0.0f);
  }
}

// tile += a[kRows, inner] · right[inner, kVecs vectors]. Each element is one chain of fused multiply-adds in
// the order of `inner`, so its bits do not depend on the tile it falls into.
template <int kRows, int kVecs, typename Right>
inline void accumulate(const float* a, int64_t lda, const Right& right, int64_t inner,
                       Tile<kRows, kVecs>& tile) {
  for (int64_t k = 0; k < inner; k++) {
    Vec row[kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) row[j] = right.at(k, j);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const Vec left = splat(a[r * lda + k]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; j++) tile.sums[r][j] = fma(left, row[j], tile.sums[r][j]);
    }
  }
}

template <int kRows, int kVecs>
inline void store_tile(const Tile<kRows, kVecs>& tile, float* c, int64_t ldc) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) store(c + r * ldc + j * Vec::kWidth, tile.sums[r][j]);
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

// body(Count<rows>, Count<vectors>, first row, first column) for tiles that cover rows x cols, cols whole
// vectors.
template <typename Body>
inline void for_tiles(int64_t rows, int64_t cols, Body body) {
  constexpr int64_t kCols = Vec::kTileVecs * Vec::kWidth;
  for_row_tiles(rows, [&](auto tile_rows, int64_t first) {
    int64_t j = 0;
    for (; j + kCols <= cols; j += kCols) body(tile_rows, Count<Vec::kTileVecs>{}, first, j);
    for (; j < cols; j += Vec::kWidth) body(tile_rows, Count<1>{}, first, j);
  });
}

// c[rows, cols] = a[rows, inner] · right[inner, cols], cols whole vectors.
void product(const float* a, int64_t lda, FloatRows right, int64_t inner, float* c, int64_t ldc, int64_t rows,
             int64_t cols) {
  for_tiles(rows, cols, [&](auto tile_rows, auto tile_vecs, int64_t first, int64_t j) {
    Tile<decltype(tile_rows)::kValue, decltype(tile_vecs)::kValue> tile;
    clear(tile);
    accumulate(a + first * lda, lda, FloatRows{right.data + j, right.stride}, inner, tile);
    store_tile(tile, c + first * ldc + j, ldc);
  });
}

}  // namespace
}  // namespace picert::cpu
