// attention_body.h: the attention kernels over `Vec`. Include a vec_<isa>.h first.
//
// An item's rows are its queries times the heads of the group. For each chunk of kChunk positions the keys
// and values are widened to fp32 once, in a layout that makes both S = Q·K^T and O += P·V the same small
// matrix product.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/attention_kernels.h"
#include "cpu/vec_math.h"

namespace picert::cpu {
namespace {

// What `rows` rows have gathered: out[rows, padded D] = sum of e^(s - max) v, total[rows] = sum of e^(s -
// max). A row that has seen no position has total 0.
struct Gathered {
  float* out;
  float* max;
  float* total;
};

struct Scratch {
  float* queries;  // [rows, padded D], scaled
  float* scores;   // [rows, kChunk], then the weights e^(s - max)
  float* keys;     // [D, kChunk]
  float* values;   // [kChunk, padded D]
  Gathered span;
  Gathered whole;
};

Gathered carve_gathered(const AttentionShape& shape, int64_t rows, float* memory) {
  const int64_t sums = rows * padded_dim(shape);
  return {memory, memory + sums, memory + sums + rows};
}

Scratch carve(const AttentionShape& shape, int64_t rows, float* memory) {
  const int64_t dim = padded_dim(shape);
  Scratch s;
  s.queries = memory;
  s.scores = s.queries + rows * dim;
  s.keys = s.scores + rows * kChunk;
  s.values = s.keys + kChunk * dim;
  float* rest = s.values + kChunk * dim;
  s.span = carve_gathered(shape, rows, rest);
  s.whole = carve_gathered(shape, rows, rest + partial_floats(shape, rows));
  return s;
}

void fill(float* out, float value, int64_t n) {
  for_each_vec(n, [&](int64_t i, int64_t lanes) { store_first(out + i, splat(value), lanes); });
}

void clear(Gathered& state, int64_t rows, int64_t dim) {
  fill(state.out, 0.0f, rows * dim);
  fill(state.max, -INFINITY, rows);
  fill(state.total, 0.0f, rows);
}

// c[kRows, kVecs * kWidth] += a[kRows, inner] · b[inner, kVecs * kWidth]. Each element is one chain of fused
// multiply-adds in the order of `inner`, so its bits do not depend on the tile it falls into.
template <int kRows, int kVecs>
inline void product_tile(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t inner, float* c,
                         int64_t ldc) {
  Vec sums[kRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) sums[r][j] = load(c + r * ldc + j * Vec::kWidth);
  }
  for (int64_t k = 0; k < inner; k++) {
    Vec right[kVecs];
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) right[j] = load(b + k * ldb + j * Vec::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; r++) {
      const Vec left = splat(a[r * lda + k]);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; j++) sums[r][j] = fma(left, right[j], sums[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j++) store(c + r * ldc + j * Vec::kWidth, sums[r][j]);
  }
}

template <int kRows>
void product_rows(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t inner, float* c,
                  int64_t ldc, int64_t cols) {
  constexpr int64_t kCols = Vec::kTileVecs * Vec::kWidth;
  int64_t j = 0;
  for (; j + kCols <= cols; j += kCols) {
    product_tile<kRows, Vec::kTileVecs>(a, lda, b + j, ldb, inner, c + j, ldc);
  }
  for (; j < cols; j += Vec::kWidth) product_tile<kRows, 1>(a, lda, b + j, ldb, inner, c + j, ldc);
}

// c[rows, cols] += a[rows, inner] · b[inner, cols]; cols is a multiple of kWidth.
void product(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t inner, float* c, int64_t ldc,
             int64_t rows, int64_t cols) {
  static_assert(Vec::kTileRows == 6, "one case per number of rows");
  int64_t tiles = (rows + 5) / 6;
  while (rows > 0) {
    const int64_t n = (rows + tiles - 1) / tiles;  // even tiles: 7 rows are 4 + 3, not 6 + 1
    switch (n) {
      case 1:
        product_rows<1>(a, lda, b, ldb, inner, c, ldc, cols);
        break;
      case 2:
        product_rows<2>(a, lda, b, ldb, inner, c, ldc, cols);
        break;
      case 3:
        product_rows<3>(a, lda, b, ldb, inner, c, ldc, cols);
        break;
      case 4:
        product_rows<4>(a, lda, b, ldb, inner, c, ldc, cols);
        break;
      case 5:
        product_rows<5>(a, lda, b, ldb, inner, c, ldc, cols);
        break;
      default:
        product_rows<6>(a, lda, b, ldb, inner, c, ldc, cols);
    }
    a += n * lda;
    c += n * ldc;
    rows -= n;
    tiles--;
  }
}

void load_queries(const AttentionShape& shape, const AttentionItem& item, const float* q, float* queries) {
  const int64_t group = group_size(shape), dim = padded_dim(shape);
  for (int64_t i = 0; i < item.num_queries; i++) {
    for (int64_t h = 0; h < group; h++) {
      const int64_t head = (item.row + i) * shape.num_heads + item.kv_head * group + h;
      const float* from = q + head * shape.head_dim;
      float* to = queries + (i * group + h) * dim;
      for_each_vec(shape.head_dim, [&](int64_t d, int64_t lanes) {
        store_first(to + d, mul(load_first(from + d, lanes), splat(shape.scale)), lanes);
      });
    }
  }
}

// Call body(block, offset, j, n) for each run of positions begin + j … that lie in one block.
template <typename Body>
inline void for_each_run(const AttentionShape& shape, const AttentionItem& item, int64_t begin, int64_t count,
                         Body body) {
  for (int64_t j = 0; j < count;) {
    const int64_t position = begin + j, offset = position % shape.block_size;
    const int64_t left = count - j, room = shape.block_size - offset;
    const int64_t n = left < room ? left : room;
    body(static_cast<int64_t>(item.block_table[position / shape.block_size]), offset, j, n);
    j += n;
  }
}

// keys[D, kChunk] from positions begin to begin + count. Up to three more columns of the last block come
// along: they are masked later, whatever they hold.
void load_keys(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
               int64_t count, float* keys) {
  for_each_run(shape, item, begin, count, [&](int64_t block, int64_t offset, int64_t j, int64_t n) {
    const int64_t head = block * shape.num_kv_heads + item.kv_head;
    const uint16_t* from = pages.keys + head * shape.head_dim * shape.block_size + offset;
    const int64_t whole_groups = (n + 3) / 4 * 4;
    for (int64_t d = 0; d < shape.head_dim; d++) {
      halves_to_floats(from + d * shape.block_size, keys + d * kChunk + j, whole_groups);
    }
  });
}

// values[kChunk, padded D] from positions begin to begin + count.
void load_values(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
                 int64_t count, float* values) {
  const int64_t dim = padded_dim(shape);
  for_each_run(shape, item, begin, count, [&](int64_t block, int64_t offset, int64_t j, int64_t n) {
    const int64_t head = block * shape.num_kv_heads + item.kv_head;
    const uint16_t* from = pages.values + (head * shape.block_size + offset) * dim;
    halves_to_floats(from, values + j * dim, n * dim);
  });
}

inline void scale_row(float* row, float factor, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) store(row + i, mul(load(row + i), splat(factor)));
}

inline float exp_one(float x) {
  float lanes[Vec::kWidth];
  store(lanes, exp(splat(x)));
  return lanes[0];
}

// Turn scores[cols] of one row into weights; those outside [begin, end) become 0. Rescale what the row has
// gathered to the new maximum.
void update_row(const AttentionShape& shape, float* scores, int64_t cols, int64_t begin, int64_t end,
                const Gathered& state, int64_t row) {
  if (begin >= end) return fill(scores, 0.0f, cols);
  Vec highest = splat(-INFINITY);
  for (int64_t i = 0; i < cols; i += Vec::kWidth) {
    Vec s = load(scores + i);
    if (shape.soft_cap > 0.0f) s = mul(tanh(div(s, splat(shape.soft_cap))), splat(shape.soft_cap));
    s = select_lanes(s, splat(-INFINITY), begin - i, end - i);
    store(scores + i, s);
    highest = max(highest, s);
  }
  const float before = state.max[row], chunk_max = maximum(highest);
  const float now = chunk_max > before ? chunk_max : before;
  Vec total = splat(0.0f);
  for (int64_t i = 0; i < cols; i += Vec::kWidth) {
    const Vec weight = exp(sub(load(scores + i), splat(now)));
    store(scores + i, weight);
    total = add(total, weight);
  }
  if (now != before) {
    const int64_t dim = padded_dim(shape);
    const float factor = exp_one(before - now);
    scale_row(state.out + row * dim, factor, dim);
    state.total[row] *= factor;
    state.max[row] = now;
  }
  state.total[row] += sum(total);
}

// Add the positions from `begin` to `begin + count` (count <= kChunk) to `state`.
void attend_chunk(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
                  int64_t count, const Scratch& s) {
  const int64_t group = group_size(shape), dim = padded_dim(shape), rows = item.num_queries * group;
  const int64_t cols = (count + Vec::kWidth - 1) / Vec::kWidth * Vec::kWidth;
  load_keys(shape, pages, item, begin, count, s.keys);
  for (int64_t r = 0; r < rows; r++) fill(s.scores + r * kChunk, 0.0f, cols);
  product(s.queries, dim, s.keys, kChunk, shape.head_dim, s.scores, kChunk, rows, cols);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t position = item.position + r / group;
    const int64_t lowest = shape.window > 0 ? position - shape.window + 1 : 0;
    const int64_t last = position - begin < count ? position - begin + 1 : count;
    update_row(shape, s.scores + r * kChunk, cols, lowest > begin ? lowest - begin : 0, last, s.span, r);
  }
  load_values(shape, pages, item, begin, count, s.values);
  product(s.scores, kChunk, s.values, dim, count, s.span.out, dim, rows, dim);
}

// What the item's rows see of one span, into s.span.
void attend_span(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t span,
                 Scratch& s) {
  clear(s.span, item.num_queries * group_size(shape), padded_dim(shape));
  const int64_t context = item.position + item.num_queries;
  const int64_t span_end = (span + 1) * kSpan, end = span_end < context ? span_end : context;
  const int64_t lowest = shape.window > 0 ? item.position - shape.window + 1 : 0;
  for (int64_t begin = span * kSpan; begin < end; begin += kChunk) {
    if (begin + kChunk <= lowest) continue;
    attend_chunk(shape, pages, item, begin, end - begin < kChunk ? end - begin : kChunk, s);
  }
}

// whole += part, row by row.
void join(const Gathered& part, int64_t rows, int64_t dim, const Gathered& whole) {
  for (int64_t r = 0; r < rows; r++) {
    if (part.total[r] == 0.0f) continue;
    float* out = whole.out + r * dim;
    const float now = part.max[r] > whole.max[r] ? part.max[r] : whole.max[r];
    const float old_factor = exp_one(whole.max[r] - now), part_factor = exp_one(part.max[r] - now);
    scale_row(out, old_factor, dim);
    for (int64_t d = 0; d < dim; d += Vec::kWidth) {
      store(out + d, fma(load(part.out + r * dim + d), splat(part_factor), load(out + d)));
    }
    whole.total[r] = whole.total[r] * old_factor + part.total[r] * part_factor;
    whole.max[r] = now;
  }
}

void write_rows(const AttentionShape& shape, const AttentionItem& item, const Gathered& state, float* out) {
  const int64_t group = group_size(shape), dim = padded_dim(shape);
  for (int64_t r = 0; r < item.num_queries * group; r++) {
    const int64_t head = (item.row + r / group) * shape.num_heads + item.kv_head * group + r % group;
    const Vec factor = splat(1.0f / state.total[r]);
    for_each_vec(shape.head_dim, [&](int64_t d, int64_t lanes) {
      const Vec value = mul(load_first(state.out + r * dim + d, lanes), factor);
      store_first(out + head * shape.head_dim + d, value, lanes);
    });
  }
}

void attend(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, const float* q,
            float* scratch, float* partials, float* out) {
  const int64_t rows = item.num_queries * group_size(shape), dim = padded_dim(shape);
  Scratch s = carve(shape, rows, scratch);
  load_queries(shape, item, q, s.queries);
  if (item.partial >= 0) {
    s.span = carve_gathered(shape, rows, partials + item.partial);
    attend_span(shape, pages, item, item.span_begin, s);
    return;
  }
  clear(s.whole, rows, dim);
  for (int64_t span = item.span_begin; span < item.span_end; span++) {
    attend_span(shape, pages, item, span, s);
    join(s.span, rows, dim, s.whole);
  }
  write_rows(shape, item, s.whole, out);
}

void merge(const AttentionShape& shape, const AttentionItem& item, float* scratch, const float* partials,
           float* out) {
  const int64_t rows = item.num_queries * group_size(shape), dim = padded_dim(shape);
  const Scratch s = carve(shape, rows, scratch);
  Gathered whole = s.whole;
  clear(whole, rows, dim);
  for (int64_t span = item.span_begin; span < item.span_end; span++) {
    const int64_t offset = item.partial + (span - item.span_begin) * partial_floats(shape, rows);
    join(carve_gathered(shape, rows, const_cast<float*>(partials) + offset), rows, dim, whole);
  }
  write_rows(shape, item, whole, out);
}

void store_half_values(const float* from, int64_t n, uint16_t* to) {
  const Vec limit = splat(65504.0f), lower = splat(-65504.0f);
  float padded[Vec::kWidth];
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    store(padded, splat(0.0f));
    store_first(padded, load_first(from + i, lanes), lanes);
    store_half(to + i, min(max(load(padded), lower), limit));
  });
}

void store_token(const AttentionShape& shape, const KvPages& pages, int64_t slot, int64_t kv_head,
                 const float* k, const float* v) {
  const int64_t block = slot / shape.block_size, offset = slot % shape.block_size;
  const int64_t head = block * shape.num_kv_heads + kv_head;
  uint16_t halves[kMaxHeadDim];
  store_half_values(k, shape.head_dim, halves);
  uint16_t* keys = pages.keys + head * shape.head_dim * shape.block_size + offset;
  for (int64_t d = 0; d < shape.head_dim; d++) keys[d * shape.block_size] = halves[d];
  uint16_t* values = pages.values + (head * shape.block_size + offset) * padded_dim(shape);
  store_half_values(v, shape.head_dim, halves);
  std::memcpy(values, halves, static_cast<size_t>(padded_dim(shape)) * sizeof(uint16_t));
}

constexpr AttentionKernels kFunctions = {store_token, attend, merge};

}  // namespace
}  // namespace picert::cpu
