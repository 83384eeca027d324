// attention_args.h: numpy arrays as the arguments of one call of attention, for tests and benchmarks.
#pragma once

#include <pybind11/numpy.h>

#include "cpu/attention.h"
#include "cpu/kv_cache.h"
#include "cpu/numpy_args.h"

namespace picert::cpu {

// Arrays of Python, checked, and the batch over them.
struct AttentionArgs {
  Array<float> q, keys, values;
  Array<int32_t> query_start, context_lens, block_tables;
  AttentionShape shape;
  AttentionBatch batch;
};

// q[T, H, D] over caches [N, B, G, D]. No window, no cap, scale 1, fp16 pages: for the caller to change.
inline AttentionArgs attention_args(const pybind11::object& q, const pybind11::object& keys,
                                    const pybind11::object& values, const pybind11::object& query_start,
                                    const pybind11::object& context_lens,
                                    const pybind11::object& block_tables) {
  AttentionArgs a;
  a.q = array_arg<float>(q, "q", 3);
  a.keys = array_arg<float>(keys, "k_cache", 4);
  const auto* sizes = a.keys.shape();
  a.values = sized_array_arg<float>(values, "v_cache", {sizes[0], sizes[1], sizes[2], sizes[3]});
  a.context_lens = array_arg<int32_t>(context_lens, "context_lens", 1);
  a.query_start = sized_array_arg<int32_t>(query_start, "query_start", {a.context_lens.size() + 1});
  a.block_tables = array_arg<int32_t>(block_tables, "block_tables", 2);
  PICERT_CHECK(a.block_tables.shape(0) == a.context_lens.size(),
               "block_tables and context_lens differ in length");
  PICERT_CHECK(sizes[2] >= 1 && a.q.shape(1) >= 1 && a.q.shape(1) % sizes[2] == 0, "q has ", a.q.shape(1),
               " heads, must be a multiple of those of k_cache, ", sizes[2]);
  PICERT_CHECK(a.q.shape(2) == sizes[3] && sizes[3] >= 1 && sizes[3] <= kMaxHeadDim, "q has heads of ",
               a.q.shape(2), " values, k_cache of ", sizes[3], ": they must agree and be 1 to ", kMaxHeadDim);
  a.shape = {a.q.shape(1), sizes[2], sizes[3], sizes[1], 0, 1.0f, 0.0f, KvFormat::fp16};
  a.batch = {a.context_lens.size(), a.block_tables.shape(1), a.query_start.data(), a.context_lens.data(),
             a.block_tables.data()};
  check_batch(a.batch, a.q.shape(0), sizes[0], sizes[1]);
  return a;
}

// Store all tokens of the caches in one layer's pages.
inline void fill_layer(const AttentionKernels& kernels, const AttentionArgs& a, const KvPages& pages) {
  const int64_t num_slots = a.keys.shape(0) * a.keys.shape(1);
  const int64_t heads = a.shape.num_kv_heads, dim = a.shape.head_dim;
  for (int64_t i = 0; i < num_slots * heads; i++) {
    kernels.store(a.shape, pages, i / heads, i % heads, a.keys.data() + i * dim, a.values.data() + i * dim);
  }
}

}  // namespace picert::cpu
