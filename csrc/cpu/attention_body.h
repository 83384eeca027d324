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
#include "cpu/attention_product.h"
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

// Where the key of a position begins: its values are block_size apart.
inline const uint16_t* key_at(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item,
                              int64_t position) {
  const int64_t block = item.block_table[position / shape.block_size];
  const int64_t head = block * shape.num_kv_heads + item.kv_head;
  return pages.keys + head * shape.head_dim * shape.block_size + position % shape.block_size;
}

// Where the value of a position begins: padded D numbers in a row.
inline const uint16_t* value_at(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item,
                                int64_t position) {
  const int64_t block = item.block_table[position / shape.block_size];
  const int64_t head = block * shape.num_kv_heads + item.kv_head;
  return pages.values + (head * shape.block_size + position % shape.block_size) * padded_dim(shape);
}

// Call body(position, j, n) for each run of n positions begin + j … that lie in one block.
template <typename Body>
inline void for_each_run(const AttentionShape& shape, int64_t begin, int64_t count, Body body) {
  for (int64_t j = 0; j < count;) {
    const int64_t left = count - j, room = shape.block_size - (begin + j) % shape.block_size;
    const int64_t n = left < room ? left : room;
    body(begin + j, j, n);
    j += n;
  }
}

// keys[D, kChunk] from positions begin to begin + count. Up to three more columns of the last block come
// along: they are masked later, whatever they hold.
void widen_keys(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
                int64_t count, float* keys) {
  for_each_run(shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
    const uint16_t* from = key_at(shape, pages, item, position);
    int64_t i = 0;
    for (; i + Vec::kWidth <= n; i += Vec::kWidth) {
      for (int64_t d = 0; d < shape.head_dim; d++) {
        store(keys + d * kChunk + j + i, load_half(from + d * shape.block_size + i));
      }
    }
    for (; i < n; i += 4) {
      for (int64_t d = 0; d < shape.head_dim; d++) {
        widen_four(from + d * shape.block_size + i, keys + d * kChunk + j + i);
      }
    }
  });
}

// values[kChunk, padded D] from positions begin to begin + count.
void widen_values(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
                  int64_t count, float* values) {
  const int64_t dim = padded_dim(shape);
  for_each_run(shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
    const uint16_t* from = value_at(shape, pages, item, position);
    for (int64_t i = 0; i < n * dim; i += Vec::kWidth) store(values + j * dim + i, load_half(from + i));
  });
}

// scores[rows, kChunk] += queries · keys, for few rows: keys are widened on the way. Needs blocks of whole
// vectors.
void score_few(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
               int64_t count, int64_t rows, const Scratch& s) {
  constexpr int kVecs = Vec::kTileVecs;
  for (int64_t j = 0; j < count; j += kVecs * Vec::kWidth) {
    HalfColumns<kVecs> keys;
    keys.stride = shape.block_size;
    for (int v = 0; v < kVecs; v++) {  // past the end: some vector that is there, its scores are masked
      const int64_t at = j + v * Vec::kWidth;
      keys.data[v] = key_at(shape, pages, item, begin + (at < count ? at : j));
    }
    for_row_tiles(rows, [&](auto tile_rows, int64_t first) {
      product_tile<decltype(tile_rows)::kValue, kVecs>(s.queries + first * padded_dim(shape),
                                                       padded_dim(shape), keys, shape.head_dim,
                                                       s.scores + first * kChunk + j, kChunk);
    });
  }
}

// s.span.out[rows, padded D] += weights · values, for few rows: values are widened on the way.
void gather_few(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
                int64_t count, int64_t rows, const Scratch& s) {
  const int64_t dim = padded_dim(shape);
  for_each_run(shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
    const HalfRows values = {value_at(shape, pages, item, position), dim};
    product(s.scores + j, kChunk, values, n, s.span.out, dim, rows, dim);
  });
}

inline void scale_row(float* row, float factor, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) store(row + i, mul(load(row + i), splat(factor)));
}

inline float exp_one(float x) {
  float lanes[Vec::kWidth];
  store(lanes, exp_not_positive(splat(x)));
  return lanes[0];
}

void cap_row(float* scores, float cap) {
  for (int64_t i = 0; i < kChunk; i += Vec::kWidth) {
    store(scores + i, mul(tanh(div(load(scores + i), splat(cap))), splat(cap)));
  }
}

// Raise the row's maximum to `now`, what it has gathered accordingly.
void raise_maximum(const Gathered& state, int64_t row, int64_t dim, float now) {
  const float factor = exp_one(state.max[row] - now);
  scale_row(state.out + row * dim, factor, dim);
  state.total[row] *= factor;
  state.max[row] = now;
}

// Turn scores[kChunk] of one row into weights; those outside [begin, end) become 0, whatever they held.
void update_row(const AttentionShape& shape, float* scores, int64_t begin, int64_t end, const Gathered& state,
                int64_t row) {
  constexpr int kVecs = kChunk / Vec::kWidth;
  if (begin >= end) return fill(scores, 0.0f, kChunk);
  if (shape.soft_cap > 0.0f) cap_row(scores, shape.soft_cap);
  if (begin > 0) fill(scores, -INFINITY, begin);
  if (end < kChunk) fill(scores + end, -INFINITY, kChunk - end);
  Vec weights[kVecs], highest = splat(-INFINITY), total = splat(0.0f);
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; j++) {
    weights[j] = load(scores + j * Vec::kWidth);
    highest = max(highest, weights[j]);
  }
  const float chunk_max = maximum(highest);
  if (chunk_max > state.max[row]) raise_maximum(state, row, padded_dim(shape), chunk_max);
  const Vec now = splat(state.max[row]);
#pragma GCC unroll 8
  for (int j = 0; j < kVecs; j++) {
    weights[j] = exp_not_positive(sub(weights[j], now));
    store(scores + j * Vec::kWidth, weights[j]);
    total = add(total, weights[j]);
  }
  state.total[row] += sum(total);
}

void update_rows(const AttentionShape& shape, const AttentionItem& item, int64_t begin, int64_t count,
                 int64_t rows, const Scratch& s) {
  const int64_t group = group_size(shape);
  for (int64_t r = 0; r < rows; r++) {
    const int64_t position = item.position + r / group;
    const int64_t lowest = shape.window > 0 ? position - shape.window + 1 : 0;
    const int64_t last = position - begin < count ? position - begin + 1 : count;
    update_row(shape, s.scores + r * kChunk, lowest > begin ? lowest - begin : 0, last, s.span, r);
  }
}

// Add the positions from `begin` to `begin + count` (count <= kChunk) to s.span. Rows that fill one register
// tile use each key and value once: widening them on the way saves the trip through memory. The bits are the
// same.
void attend_chunk(const AttentionShape& shape, const KvPages& pages, const AttentionItem& item, int64_t begin,
                  int64_t count, const Scratch& s) {
  const int64_t dim = padded_dim(shape), rows = item.num_queries * group_size(shape);
  const bool few = rows <= Vec::kTileRows && shape.block_size % Vec::kWidth == 0;
  fill(s.scores, 0.0f, rows * kChunk);
  if (few) {
    score_few(shape, pages, item, begin, count, rows, s);
    update_rows(shape, item, begin, count, rows, s);
    gather_few(shape, pages, item, begin, count, rows, s);
    return;
  }
  const int64_t cols = (count + Vec::kWidth - 1) / Vec::kWidth * Vec::kWidth;
  widen_keys(shape, pages, item, begin, count, s.keys);
  product(s.queries, dim, FloatRows{s.keys, kChunk}, shape.head_dim, s.scores, kChunk, rows, cols);
  update_rows(shape, item, begin, count, rows, s);
  widen_values(shape, pages, item, begin, count, s.values);
  product(s.scores, kChunk, FloatRows{s.values, dim}, count, s.span.out, dim, rows, dim);
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
