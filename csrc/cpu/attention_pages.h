// attention_pages.h: writing and reading the pages of keys and values over `Vec`. Include a vec_<isa>.h
// first.
//
// `Number` is uint16_t for fp16 pages and int8_t for int8 ones, whose scales are applied elsewhere: that of a
// key to its scores, that of a value to its weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/attention_kernels.h"
#include "cpu/attention_product.h"
#include "cpu/vec_math.h"

namespace picert::cpu {
namespace {

// The pages of one kv head of one sequence.
template <typename Number>
struct PageReader {
  const AttentionShape& shape;
  const KvPages& pages;
  const int32_t* block_table;
  int64_t kv_head;

  // Block and head of a position, as a row of [N, G].
  int64_t head_of(int64_t position) const {
    return block_table[position / shape.block_size] * shape.num_kv_heads + kv_head;
  }
  // Where the key of a position begins: its numbers are block_size apart.
  const Number* key(int64_t position) const {
    const auto* keys = static_cast<const Number*>(pages.keys);
    return keys + head_of(position) * shape.head_dim * shape.block_size + position % shape.block_size;
  }
  // Where the value of a position begins: padded D numbers in a row.
  const Number* value(int64_t position) const {
    const auto* values = static_cast<const Number*>(pages.values);
    return values + (head_of(position) * shape.block_size + position % shape.block_size) * padded_dim(shape);
  }
  // From a position's key to the same place in its block of values.
  ptrdiff_t key_to_value(int64_t position) const {
    const int64_t first = position - position % shape.block_size;
    return reinterpret_cast<const char*>(value(first)) - reinterpret_cast<const char*>(key(first));
  }
  // From a position's value to the same place in the block of keys a span later, or before `end` in itself.
  ptrdiff_t value_to_next_key(int64_t position, int64_t end) const {
    const int64_t first = position - position % shape.block_size;
    if (first + kSpan >= end) return 0;
    const int64_t next = first + kSpan - (first + kSpan) % shape.block_size;
    return reinterpret_cast<const char*>(key(next)) - reinterpret_cast<const char*>(value(first));
  }
};

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

// keys[D, kSpan] from positions begin to begin + count. Up to three more columns of the last block come
// along: they are masked later, whatever they hold.
template <typename Number>
void widen_keys(const PageReader<Number>& reader, int64_t begin, int64_t count, float* keys) {
  const AttentionShape& shape = reader.shape;
  for_each_run(shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
    const Number* from = reader.key(position);
    int64_t i = 0;
    for (; i + Vec::kWidth <= n; i += Vec::kWidth) {
      for (int64_t d = 0; d < shape.head_dim; d++) {
        store(keys + d * kSpan + j + i, widen(from + d * shape.block_size + i));
      }
    }
    for (; i < n; i += 4) {
      for (int64_t d = 0; d < shape.head_dim; d++) {
        widen_four(from + d * shape.block_size + i, keys + d * kSpan + j + i);
      }
    }
  });
}

// values[kSpan, padded D] from positions begin to begin + count.
template <typename Number>
void widen_values(const PageReader<Number>& reader, int64_t begin, int64_t count, float* values) {
  const int64_t dim = padded_dim(reader.shape);
  for_each_run(reader.shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
    const Number* from = reader.value(position);
    for (int64_t i = 0; i < n * dim; i += Vec::kWidth) store(values + j * dim + i, widen(from + i));
  });
}

// scales[kSpan] of positions begin to begin + count from `from` [N, G, B]; the rest is 1.
template <typename Number>
void gather_scales(const PageReader<Number>& reader, const float* from, int64_t begin, int64_t count,
                   float* scales) {
  const int64_t block_size = reader.shape.block_size;
  for_each_run(reader.shape, begin, count, [&](int64_t position, int64_t j, int64_t n) {
    const float* run = from + reader.head_of(position) * block_size + position % block_size;
    for (int64_t i = 0; i < n; i++) scales[j + i] = run[i];
  });
  for (int64_t j = count; j < kSpan; j++) scales[j] = 1.0f;
}

// to[padded] from x[n]: the rest is zero, since it counts for the scale of int8 pages, and what fp16 cannot
// hold saturates.
void saturate(const float* x, int64_t n, int64_t padded, float* to) {
  const Vec limit = splat(65504.0f), lower = splat(-65504.0f);
  for (int64_t i = 0; i < padded; i += Vec::kWidth) store(to + i, splat(0.0f));
  for_each_vec(n, [&](int64_t i, int64_t lanes) {
    store_first(to + i, min(max(load_first(x + i, lanes), lower), limit), lanes);
  });
}

// to[padded D] = fp16 of x[D].
float narrow(const float* x, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; i += Vec::kWidth) store_half(to + i, load(x + i));
  return 1.0f;
}

// to[padded D] = round(x / scale); returns the scale, the largest |x| over 127.
float narrow(const float* x, int64_t n, int8_t* to) {
  Vec largest = splat(0.0f);
  for (int64_t i = 0; i < n; i += Vec::kWidth) {
    const Vec v = load(x + i);
    largest = max(largest, max(v, sub(splat(0.0f), v)));
  }
  const float most = maximum(largest);
  const Vec factor = splat(most > 0.0f ? 127.0f / most : 0.0f);
  for (int64_t i = 0; i < n; i += Vec::kWidth) store_int8(to + i, round(mul(load(x + i), factor)));
  return most / 127.0f;
}

template <typename Number>
void store_as(const AttentionShape& shape, const KvPages& pages, int64_t slot, int64_t kv_head,
              const float* k, const float* v) {
  const int64_t block = slot / shape.block_size, offset = slot % shape.block_size, dim = padded_dim(shape);
  const int64_t head = block * shape.num_kv_heads + kv_head;
  float row[kMaxHeadDim];
  Number key[kMaxHeadDim];
  saturate(k, shape.head_dim, dim, row);
  const float key_scale = narrow(row, dim, key);
  Number* keys = static_cast<Number*>(pages.keys) + head * shape.head_dim * shape.block_size + offset;
  for (int64_t d = 0; d < shape.head_dim; d++) keys[d * shape.block_size] = key[d];
  saturate(v, shape.head_dim, dim, row);
  Number* values = static_cast<Number*>(pages.values) + (head * shape.block_size + offset) * dim;
  const float value_scale = narrow(row, dim, values);
  if (pages.key_scales == nullptr) return;
  pages.key_scales[head * shape.block_size + offset] = key_scale;
  pages.value_scales[head * shape.block_size + offset] = value_scale;
}

void store_token(const AttentionShape& shape, const KvPages& pages, int64_t slot, int64_t kv_head,
                 const float* k, const float* v) {
  const auto store_fn = shape.format == KvFormat::int8 ? store_as<int8_t> : store_as<uint16_t>;
  store_fn(shape, pages, slot, kv_head, k, v);
}

}  // namespace
}  // namespace picert::cpu
