// attention_kernels.h: what the attention kernels of each instruction set are given and do; attention.h
// drives them.
//
// Plain structs and `static inline` functions only: files built for a larger instruction set include this.
#pragma once

#include <cstdint>

#include "cpu/isa.h"

namespace picert::cpu {

// Positions of one softmax and one partial result. Small enough that a shared prefix is covered but for its
// last tokens and that scores, keys and values of a span stay in the nearest caches; large enough that
// folding it into what came before costs little.
constexpr int64_t kSpan = 128;
constexpr int64_t kQueryRows = 48;  // wanted rows (queries x heads of a group) of one work item
constexpr int64_t kHeadAlign = 16;  // heads in the cache and in scratch are padded to a multiple of this
constexpr int64_t kMaxHeadDim = 512;

// How a key or value is kept: int8 comes with one fp32 scale per token and head.
enum class KvFormat { fp16, int8 };

// Sizes and options of one layer's attention.
struct AttentionShape {
  int64_t num_heads;     // H, a multiple of G
  int64_t num_kv_heads;  // G
  int64_t head_dim;      // D
  int64_t block_size;    // B, a multiple of 4
  int64_t window;        // a query at p sees positions above p - window; 0: all
  float scale;           // on q·k
  float soft_cap;        // scores become cap * tanh(score / cap); 0: as they are
  KvFormat format;
};

static inline int64_t group_size(const AttentionShape& shape) { return shape.num_heads / shape.num_kv_heads; }
static inline int64_t padded_dim(const AttentionShape& shape) {
  return (shape.head_dim + kHeadAlign - 1) / kHeadAlign * kHeadAlign;
}
static inline int64_t queries_per_item(const AttentionShape& shape) {
  return group_size(shape) < kQueryRows ? kQueryRows / group_size(shape) : 1;
}
// Numbers that one block takes, for all kv heads.
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
// Spans that a query at `position` sees.
static inline int64_t num_spans(int64_t position) { return position / kSpan + 1; }

// One layer's pages. Keys are transposed within a block, so that scores of adjacent positions are one vector.
struct KvPages {
  void* keys;           // [N, G, D, B] fp16 or int8
  void* values;         // [N, G, B, padded D] of the same
  float* key_scales;    // [N, G, B] for int8, null for fp16
  float* value_scales;  // the same
};

// One of the step's tokens, with all its heads.
struct AttentionQuery {
  int32_t row;       // among the step's tokens
  int32_t position;  // in its sequence
  int64_t partial;   // offset of its partial results [num_spans, G, partial_floats(group)]; -1: none
};

// Queries of one sequence, or of several over blocks that they share, against one kv head.
struct AttentionItem {
  const int32_t* block_table;
  int64_t first_query, num_queries;  // at most queries_per_item(), in order of position if of one sequence
  int64_t kv_head;
  int64_t span_begin, span_end;  // spans of kSpan positions to visit
  bool is_partial;               // write partial results of the spans; else they are all: finish here
};

// One instruction set's functions.
struct AttentionKernels {
  // Write token `slot`'s key and value of one kv head, k[D] and v[D], rounded to the pages' format
  // (saturating at what fp16 holds).
  void (*store)(const AttentionShape&, const KvPages&, int64_t slot, int64_t kv_head, const float* k,
                const float* v);
  // q, out: [T, H, D]. `scratch` holds scratch_floats().
  void (*attend)(const AttentionShape&, const KvPages&, const AttentionQuery* queries, const AttentionItem&,
                 const float* q, float* scratch, float* partials, float* out);
  // Fold the partial results of a query and write its row of `out`.
  void (*merge)(const AttentionShape&, const AttentionQuery&, float* scratch, const float* partials,
                float* out);
};

// Floats of working memory that one worker needs for `attend` and `merge`.
static inline int64_t scratch_floats(const AttentionShape& shape) {
  const int64_t rows = queries_per_item(shape) * group_size(shape), dim = padded_dim(shape);
  const int64_t pages = 2 * kSpan * (dim + 1);
  return rows * dim + rows * kSpan + pages + 2 * partial_floats(shape, rows);
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
