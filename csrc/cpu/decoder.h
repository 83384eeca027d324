// decoder.h: one step of a dense decoder on the CPU, from token ids to logits, in one run of the thread team.
//
// models/decoder.py is its readable meaning. It owns weights, K/V cache, buffers and threads; one step at a
// time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/attention.h"
#include "cpu/elementwise.h"
#include "cpu/isa.h"
#include "cpu/kv_cache.h"
#include "cpu/linear.h"
#include "cpu/model_weights.h"
#include "cpu/step_profile.h"
#include "cpu/thread_pool.h"

namespace picert::cpu {

// One step: T tokens of S sequences, logits for L of them. The caller's arrays, int32, contiguous.
struct StepInputs {
  int64_t num_tokens;             // T >= 1
  int64_t num_logits;             // L, may be 0
  const int32_t* token_ids;       // [T]
  const int32_t* positions;       // [T] consecutive within a sequence, the last one is its context_len - 1
  const int32_t* slot_mapping;    // [T] block * block_size + offset
  const int32_t* logits_indices;  // [L] rows of T
  AttentionBatch batch;
};

class Decoder {
 public:
  // Repacks the weights; `tensors` may go away afterwards. The threads run on `cpus` as ThreadPool says.
  // Throws std::invalid_argument.
  Decoder(DecoderConfig config, const TensorMap& tensors, Quantization quantization, int num_threads,
          std::vector<int> cpus, Isa isa);

  // Make the K/V memory anew; what was in it is lost. Throws std::invalid_argument and std::bad_alloc.
  void allocate_kv(int64_t num_blocks, int64_t block_size, KvFormat format);

  // logits[L, V]. Checks every value that could lead outside a buffer; throws std::invalid_argument.
  void step(const StepInputs& inputs, float* logits);

  // Count the time of the steps from here on anew, or no longer.
  void start_profile();
  void stop_profile();
  // What was counted; zeros before the first start.
  StepProfile profile() const;

  const DecoderConfig& config() const { return config_; }
  Isa isa() const { return isa_; }
  int num_threads() const { return pool_->size(); }
  // The threads, for work between steps: another pool's would fight with them for the cores.
  const std::shared_ptr<ThreadPool>& team() const { return pool_; }
  size_t weight_bytes() const { return weights_.bytes(); }
  size_t kv_bytes() const { return cache_.bytes(); }

 private:
  struct Rows {
    int64_t first, count;
  };

  // fp32 working memory for up to `capacity` tokens.
  struct Buffers {
    int64_t capacity = 0;
    AlignedBuffer memory;
    AlignedBuffer partials;
    float* x;                                  // [T, E] the residual stream
    float* normed;                             // [T, E] its norm, then what a part of a layer adds to it
    float* q;                                  // [T, H D] queries, then what they gathered
    float *k, *v;                              // [T, G D]
    float *gate, *up;                          // [rows, F]
    float *cos, *sin, *cos_local, *sin_local;  // [T, D / 2]
    float* scratch;                            // [threads, scratch_stride]
    int64_t scratch_stride;
  };

  void check(const StepInputs& inputs) const;
  void enter(const Worker& worker, Phase phase) { clocks_[static_cast<size_t>(worker.rank)].enter(phase); }
  // Wait for the others; the time counts as Phase::wait until the next `enter`.
  void meet(const Worker& worker);
  void prepare(const StepInputs& inputs);
  void grow_buffers(int64_t num_tokens);

  void run(const Worker& worker, const StepInputs& inputs, float* logits);
  void embed(const Worker& worker, const StepInputs& inputs);
  void fill_rope_tables(const Worker& worker, const StepInputs& inputs);
  void attention_part(const Worker& worker, const StepInputs& inputs, int64_t layer);
  void rotate_and_store(const Worker& worker, const StepInputs& inputs, int64_t layer);
  void ffn_part(const Worker& worker, const StepInputs& inputs, int64_t layer);
  void finish(const Worker& worker, const StepInputs& inputs, float* logits);
  void ffn_pass(const Worker& worker, Rows rows, int64_t layer);
  void norm_and_quantize(const Worker& worker, Rows rows, const float* weight);
  void add_residual(const Worker& worker, Rows rows, const std::vector<float>& post_norm);
  AttentionShape shape_of(int64_t layer) const;

  const DecoderConfig config_;
  const Isa isa_;
  const Elementwise& elementwise_;
  const AttentionKernels& attention_;
  std::shared_ptr<ThreadPool> pool_;
  ModelWeights weights_;
  KvCache cache_;
  AttentionPlan plan_;
  std::unique_ptr<std::atomic<int64_t>[]> next_item_;  // [num_layers]
  Buffers buffers_;
  Activations activations_;
  std::vector<PhaseClock> clocks_;  // [workers]
  bool is_profiling_ = false;
  int64_t profiled_steps_ = 0;
  mutable std::mutex one_step_;
};

}  // namespace picert::cpu
