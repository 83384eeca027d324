// attention_kernels.h: what the attention kernels of each instruction set are given and do; attention.h
// drives them.
//
// Plain structs and `static inline` functions only: files built for a larger instruction set include this.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace picert::cpu {

constexpr int64_t kChunk = 64;      // positions per softmax update
constexpr int64_t kSpan = 512;      // positions per partial result, the unit of work of a long context
constexpr int64_t kQueryRows = 48;  // wanted rows (queries x heads of a group) of one work item
constexpr int64_t kHeadAlign = 16;  // heads in the cache and in scratch are padded to a multiple of this
constexpr int64_t kMaxHeadDim = 512;

// Sizes and options of one layer's attention.
struct AttentionShape {
  int64_t num_heads;     // H, a multiple of G
  int64_t num_kv_heads;  // G
  int64_t head_dim;      // D
  int64_t block_size;    // B, a multiple of 4
  int64_t window;        // a query at p sees positions above p - window; 0: all
  float scale;           // on q·k
  float soft_cap;        // scores become cap * tanh(score / cap); 0: as they are
};

static inline int64_t group_size(const AttentionShape& shape) { return shape.num_heads / shape.num_kv_heads; }
static inline int64_t padded_dim(const AttentionShape& shape) {
  return (shape.head_dim + kHeadAlign - 1) / kHeadAlign * kHeadAlign;
}
static inline int64_t queries_per_item(const AttentionShape& shape) {
  return group_size(shape) < kQueryRows ? kQueryRows / group_size(shape) : 1;
}
// fp16 numbers that one block takes, for all kv heads.
static inline int64_t key_block_size(const AttentionShape& shape) {
  return shape.num_kv_heads * shape.head_dim * shape.block_size;
}
static inline int64_t value_block_size(const AttentionShape& shape) {
  return shape.num_kv_heads * padded_dim(shape) * shape.block_size;
}
// Floats that the partial result of `rows` rows over one span takes: sums, a maximum and a total per row.
static inline int64_t partial_floats(const AttentionShape& shape, int64_t rows) {
  return rows * (padded_dim(shape) + 2);
}

// One layer's pages in fp16. Keys are transposed within a block, so that scores of adjacent positions are one
// vector.
struct KvPages {
  uint16_t* keys;    // [N, G, D, B]
  uint16_t* values;  // [N, G, B, padded D]
};

// Queries of one sequence against one kv head.
struct AttentionItem {
  const int32_t* block_table;
  int64_t row;          // of the first query among the step's tokens
  int64_t num_queries;  // at most queries_per_item()
  int64_t position;     // of the first query; the others follow
  int64_t kv_head;
  int64_t span_begin, span_end;  // spans of kSpan positions to visit
  int64_t partial;  // offset in the partial results of where the first of its spans goes; -1: finish here
};

// One instruction set's functions.
struct AttentionKernels {
  // Write token `slot`'s key and value of one kv head, k[D] and v[D], rounded to fp16 (saturating).
  void (*store)(const AttentionShape&, const KvPages&, int64_t slot, int64_t kv_head, const float* k,
                const float* v);
  // q, out: [T, H, D]. `scratch` holds scratch_floats().
  void (*attend)(const AttentionShape&, const KvPages&, const AttentionItem&, const float* q, float* scratch,
                 float* partials, float* out);
  // Join the partial results of an item that was split and write its rows of `out`.
  void (*merge)(const AttentionShape&, const AttentionItem&, float* scratch, const float* partials,
                float* out);
};

// Floats of working memory that one worker needs for `attend` and `merge`.
static inline int64_t scratch_floats(const AttentionShape& shape) {
  const int64_t rows = queries_per_item(shape) * group_size(shape), dim = padded_dim(shape);
  const int64_t pages = 2 * kChunk * dim;
  return rows * dim + rows * kChunk + pages + 2 * partial_floats(shape, rows);
}

// The functions for `isa`, which this CPU must support.
const AttentionKernels& attention_kernels(Isa isa);

namespace scalar {
extern const AttentionKernels kAttention;
}
namespace avx2 {
extern const AttentionKernels kAttention;
}
namespace avx512 {
extern const AttentionKernels kAttention;
}

}  // namespace picert::cpu
