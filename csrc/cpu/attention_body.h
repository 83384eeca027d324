// attention_body.h: the attention kernels over `Vec`. Include a vec_<isa>.h first.
//
// An item's rows are its queries times the heads of the group. Each span of kSpan positions is computed from
// nothing: S = Q·K^T, weights e^(S - max), O = weights·V, where keys and values are laid out so that both are
// the same small matrix product. Spans are then folded in order.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/attention_kernels.h"
#include "cpu/attention_pages.h"
#include "cpu/attention_product.h"
#include "cpu/vec_math.h"

namespace picert::cpu {
namespace {

// Rows that take each key and value straight from the pages, widening them on the way, up to this many; more
// have them widened into scratch first. The bits are the same.
constexpr int64_t kFewRows = 2 * Vec::kTileRows;
constexpr float kNothing = -FLT_MAX;  // the maximum of a row that has seen no position

// What `rows` rows have gathered: out[rows, padded D] = sum of e^(s - max) v, total[rows] = sum of e^(s -
// max). A row that has seen no position has total 0.
struct Gathered {
  float* out;
  float* max;
  float* total;
};

struct Scratch {
  float* queries;       // [rows, padded D], scaled
  float* scores;        // [rows, kSpan], then the weights e^(s - max)
  float* keys;          // [D, kSpan]
  float* values;        // [kSpan, padded D]
  float* key_scales;    // [kSpan]
  float* value_scales;  // [kSpan]
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
  s.keys = s.scores + rows * kSpan;
  s.values = s.keys + kSpan * dim;
  s.key_scales = s.values + kSpan * dim;
  s.value_scales = s.key_scales + kSpan;
  float* rest = s.value_scales + kSpan;
  s.span = carve_gathered(shape, rows, rest);
  s.whole = carve_gathered(shape, rows, rest + partial_floats(shape, rows));
  return s;
}

void fill(float* out, float value, int64_t n) {
  for_each_vec(n, [&](int64_t i, int64_t lanes) { store_first(out + i, splat(value), lanes); });
}

void clear(const Gathered& state, int64_t rows, int64_t dim) {
  fill(state.out, 0.0f, rows * dim);
  fill(state.max, kNothing, rows);
  fill(state.total, 0.0f, rows);
}

inline int64_t whole_vecs(int64_t n) { return (n + Vec::kWidth - 1) / Vec::kWidth * Vec::kWidth; }

// An item and what all functions need with it.
struct Work {
  const AttentionShape& shape;
  const KvPages& pages;
  const AttentionItem& item;
  const AttentionQuery* queries;  // [num_queries]
  int64_t rows, dim;              // padded
  Scratch s;
};

// Positions that some query of the item sees: all of a shared span, or up to the last query of a sequence.
inline int64_t context_of(const Work& work) { return work.queries[work.item.num_queries - 1].position + 1; }

void load_queries(const Work& work, const float* q) {
  const AttentionShape& shape = work.shape;
  const int64_t group = group_size(shape);
  for (int64_t i = 0; i < work.item.num_queries; i++) {
    const int64_t first = work.queries[i].row * shape.num_heads + work.item.kv_head * group;
    for (int64_t h = 0; h < group; h++) {
      const float* from = q + (first + h) * shape.head_dim;
      float* to = work.s.queries + (i * group + h) * work.dim;
      for_each_vec(shape.head_dim, [&](int64_t d, int64_t lanes) {
        store_first(to + d, mul(load_first(from + d, lanes), splat(shape.scale)), lanes);
      });
    }
  }
}

// scores[rows, kSpan] = queries · keys of positions begin to begin + count, straight from the pages.
template <typename Number>
void score_few(const Work& work, const PageReader<Number>& reader, int64_t begin, int64_t count) {
  constexpr int kVecs = Vec::kTileVecs;
  for (int64_t j = 0; j < count; j += kVecs * Vec::kWidth) {
    PageRows<Number, kVecs> keys;
    keys.stride = work.shape.block_size;
    for (int v = 0; v < kVecs; v++) {  // past the end: some vector that is there, its scores are masked
      const int64_t at = j + v * Vec::kWidth, position = begin + (at < count ? at : j);
      keys.data[v] = reader.key(position);
      keys.ahead[v] = reader.key_to_value(position);
    }
    for_row_tiles(work.rows, [&](auto tile_rows, int64_t first) {
      Tile<decltype(tile_rows)::kValue, kVecs> tile;
      clear(tile);
      accumulate(work.s.queries + first * work.dim, work.dim, keys, work.shape.head_dim, tile);
      store_tile(tile, work.s.scores + first * kSpan + j, kSpan);
    });
  }
}

// span.out[rows, padded D] = weights · values of positions begin to begin + count, straight from the pages.
template <typename Number>
void gather_few(const Work& work, const PageReader<Number>& reader, int64_t begin, int64_t count) {
  const int64_t end =
      work.item.span_end * kSpan < context_of(work) ? work.item.span_end * kSpan : context_of(work);
  for_tiles(work.rows, work.dim, [&](auto tile_rows, auto tile_vecs, int64_t first, int64_t column) {
    constexpr int kVecs = decltype(tile_vecs)::kValue;
    Tile<decltype(tile_rows)::kValue, kVecs> tile;
    clear(tile);
    for_each_run(work.shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
      PageRows<Number, kVecs> values;
      values.stride = work.dim;
      for (int v = 0; v < kVecs; v++) {
        values.data[v] = reader.value(position) + column + v * Vec::kWidth;
        values.ahead[v] = reader.value_to_next_key(position, end);
      }
      accumulate(work.s.scores + first * kSpan + j, kSpan, values, n, tile);
    });
    store_tile(tile, work.s.span.out + first * work.dim + column, work.dim);
  });
}

void cap_row(float* scores, float cap, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) {
    store(scores + i, mul(tanh(div(load(scores + i), splat(cap))), splat(cap)));
  }
}

void multiply_row(float* row, const float* factors, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) store(row + i, mul(load(row + i), load(factors + i)));
}

// Turn scores[count] of one row into weights; those outside [begin, end) become 0, whatever they held.
void weigh_row(const AttentionShape& shape, float* scores, int64_t begin, int64_t end, int64_t count,
               float* row_max, float* row_total) {
  *row_max = kNothing;
  *row_total = 0.0f;
  if (begin >= end) return fill(scores, 0.0f, count);
  const int64_t n = whole_vecs(end);
  if (shape.soft_cap > 0.0f) cap_row(scores, shape.soft_cap, n);
  if (begin > 0) fill(scores, -INFINITY, begin);
  if (end < n) fill(scores + end, -INFINITY, n - end);
  if (n < count) fill(scores + n, 0.0f, count - n);
  Vec highest = splat(kNothing), total = splat(0.0f);
  for (int64_t i = 0; i < n; i += Vec::kWidth) highest = max(load(scores + i), highest);
  *row_max = maximum(highest);
  const Vec now = splat(*row_max);
  for (int64_t i = 0; i < n; i += Vec::kWidth) {
    const Vec weight = exp_not_positive(sub(load(scores + i), now));
    store(scores + i, weight);
    total = add(total, weight);
  }
  *row_total = sum(total);
}

// Scores of positions begin to begin + count to weights, with the maximum and total of each row.
void weigh_rows(const Work& work, int64_t begin, int64_t count) {
  const AttentionShape& shape = work.shape;
  const int64_t group = group_size(shape);
  for (int64_t r = 0; r < work.rows; r++) {
    const int64_t position = work.queries[r / group].position;
    const int64_t lowest = shape.window > 0 ? position - shape.window + 1 : 0;
    const int64_t last = position - begin < count ? position - begin + 1 : count;
    float* scores = work.s.scores + r * kSpan;
    if (work.pages.key_scales != nullptr) multiply_row(scores, work.s.key_scales, whole_vecs(count));
    weigh_row(shape, scores, lowest > begin ? lowest - begin : 0, last, count, work.s.span.max + r,
              work.s.span.total + r);
    if (work.pages.value_scales != nullptr) multiply_row(scores, work.s.value_scales, whole_vecs(count));
  }
}

// What the rows see of positions begin to begin + count, into s.span.
template <typename Number>
void attend_positions(const Work& work, int64_t begin, int64_t count) {
  const PageReader<Number> reader{work.shape, work.pages, work.item.block_table, work.item.kv_head};
  const Scratch& s = work.s;
  if (work.pages.key_scales != nullptr) {
    gather_scales(reader, work.pages.key_scales, begin, count, s.key_scales);
    gather_scales(reader, work.pages.value_scales, begin, count, s.value_scales);
  }
  if (work.rows <= kFewRows && work.shape.block_size % Vec::kWidth == 0) {
    score_few(work, reader, begin, count);
    weigh_rows(work, begin, count);
    gather_few(work, reader, begin, count);
    return;
  }
  const FloatRows keys{s.keys, kSpan}, values{s.values, work.dim};
  widen_keys(reader, begin, count, s.keys);
  product(s.queries, work.dim, keys, work.shape.head_dim, s.scores, kSpan, work.rows, whole_vecs(count));
  weigh_rows(work, begin, count);
  widen_values(reader, begin, count, s.values);
  product(s.scores, kSpan, values, count, s.span.out, work.dim, work.rows, work.dim);
}

// The lowest position that any of the queries sees.
int64_t lowest_seen(const Work& work) {
  if (work.shape.window == 0) return 0;
  int64_t lowest = work.queries[0].position;
  for (int64_t i = 1; i < work.item.num_queries; i++) {
    if (work.queries[i].position < lowest) lowest = work.queries[i].position;
  }
  return lowest - work.shape.window + 1;
}

// What the item's rows see of one span, into s.span.
void attend_span(const Work& work, int64_t span) {
  const int64_t begin = span * kSpan, left = context_of(work) - begin;
  const int64_t count = left < kSpan ? left : kSpan;
  if (begin + count <= lowest_seen(work)) return clear(work.s.span, work.rows, work.dim);
  if (work.shape.format == KvFormat::int8) {
    attend_positions<int8_t>(work, begin, count);
  } else {
    attend_positions<uint16_t>(work, begin, count);
  }
}

// whole += part, row by row.
void fold(const Gathered& part, int64_t rows, int64_t dim, const Gathered& whole) {
  float old_factors[kQueryRows], part_factors[kQueryRows];
  for (int64_t first = 0; first < rows; first += kQueryRows) {
    const int64_t n = rows - first < kQueryRows ? rows - first : kQueryRows;
    for_each_vec(n, [&](int64_t i, int64_t lanes) {
      const int64_t r = first + i;
      const Vec old_max = load_first(whole.max + r, lanes), part_max = load_first(part.max + r, lanes);
      const Vec now = max(old_max, part_max);
      const Vec old_factor = exp_not_positive(sub(old_max, now));
      const Vec part_factor = exp_not_positive(sub(part_max, now));
      const Vec total = mul(load_first(whole.total + r, lanes), old_factor);
      const Vec more = load_first(part.total + r, lanes);
      store_first(whole.total + r, fma(more, part_factor, total), lanes);
      store_first(whole.max + r, now, lanes);
      store_first(old_factors + i, old_factor, lanes);
      store_first(part_factors + i, part_factor, lanes);
    });
    for (int64_t i = 0; i < n; i++) {
      const float* from = part.out + (first + i) * dim;
      float* to = whole.out + (first + i) * dim;
      const Vec old_factor = splat(old_factors[i]), part_factor = splat(part_factors[i]);
      for (int64_t d = 0; d < dim; d += Vec::kWidth) {
        store(to + d, fma(load(from + d), part_factor, mul(load(to + d), old_factor)));
      }
    }
  }
}

// Copy the rows of each query that reaches `span` to its own partial results.
void write_partials(const Work& work, int64_t span, float* partials) {
  const int64_t group = group_size(work.shape), floats = partial_floats(work.shape, group);
  for (int64_t i = 0; i < work.item.num_queries; i++) {
    if (span >= num_spans(work.queries[i].position)) continue;
    const int64_t index = span * work.shape.num_kv_heads + work.item.kv_head, first = i * group;
    const Gathered to =
        carve_gathered(work.shape, group, partials + work.queries[i].partial + index * floats);
    const auto copy = [](float* out, const float* from, int64_t n) {
      std::memcpy(out, from, static_cast<size_t>(n) * sizeof(float));
    };
    copy(to.out, work.s.span.out + first * work.dim, group * work.dim);
    copy(to.max, work.s.span.max + first, group);
    copy(to.total, work.s.span.total + first, group);
  }
}

// One query's row of `out`, for the heads of one group.
void write_row(const AttentionShape& shape, int64_t row, int64_t kv_head, const float* sums,
               const float* totals, float* out) {
  const int64_t group = group_size(shape), dim = padded_dim(shape);
  for (int64_t h = 0; h < group; h++) {
    const Vec factor = splat(1.0f / totals[h]);
    float* to = out + (row * shape.num_heads + kv_head * group + h) * shape.head_dim;
    for_each_vec(shape.head_dim, [&](int64_t d, int64_t lanes) {
      store_first(to + d, mul(load_first(sums + h * dim + d, lanes), factor), lanes);
    });
  }
}

void attend(const AttentionShape& shape, const KvPages& pages, const AttentionQuery* queries,
            const AttentionItem& item, const float* q, float* scratch, float* partials, float* out) {
  const int64_t group = group_size(shape), rows = item.num_queries * group, dim = padded_dim(shape);
  const Scratch s = carve(shape, rows, scratch);
  const Work work{shape, pages, item, queries + item.first_query, rows, dim, s};
  load_queries(work, q);
  if (!item.is_partial) clear(s.whole, rows, dim);
  for (int64_t span = item.span_begin; span < item.span_end; span++) {
    attend_span(work, span);
    if (item.is_partial) {
      write_partials(work, span, partials);
    } else {
      fold(s.span, rows, dim, s.whole);
    }
  }
  if (item.is_partial) return;
  for (int64_t i = 0; i < item.num_queries; i++) {
    write_row(shape, work.queries[i].row, item.kv_head, s.whole.out + i * group * dim,
              s.whole.total + i * group, out);
  }
}

void merge(const AttentionShape& shape, const AttentionQuery& query, float* scratch, const float* partials,
           float* out) {
  const int64_t group = group_size(shape), dim = padded_dim(shape), floats = partial_floats(shape, group);
  const Gathered whole = carve_gathered(shape, group, scratch);
  for (int64_t kv_head = 0; kv_head < shape.num_kv_heads; kv_head++) {
    clear(whole, group, dim);
    for (int64_t span = 0; span < num_spans(query.position); span++) {
      const int64_t offset = query.partial + (span * shape.num_kv_heads + kv_head) * floats;
      fold(carve_gathered(shape, group, const_cast<float*>(partials) + offset), group, dim, whole);
    }
    write_row(shape, query.row, kv_head, whole.out, whole.total, out);
  }
}

constexpr AttentionKernels kFunctions = {store_token, attend, merge};

}  // namespace
}  // namespace picert::cpu
