// decoder.cpp: the step, phase by phase. Workers meet at `sync` wherever one reads what another wrote.
#include "cpu/decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "check.h"

namespace picert::cpu {
namespace {

// Rows of the feed-forward part that are computed together: enough to reuse a weight from the cache, few
// enough that its buffers, the largest of all, stay small.
constexpr int64_t kFfnRows = 256;
constexpr int64_t kMaxStepTokens = int64_t{1} << 20;

void check_positions(const StepInputs& inputs, int64_t seq) {
  const int64_t begin = inputs.batch.query_start[seq], end = inputs.batch.query_start[seq + 1];
  for (int64_t i = begin; i < end; i++) {
    const int64_t position = inputs.batch.context_lens[seq] - (end - i);
    PICERT_CHECK(inputs.positions[i] == position, "positions[", i, "] is ", inputs.positions[i], ", must be ",
                 position, ": a sequence's tokens are consecutive and end at its context length");
  }
}

const float* data_or_null(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

// cos, sin[half] of one position's angles.
void fill_rope_row(const std::vector<float>& inv_freq, int32_t position, float factor, float* cos,
                   float* sin) {
  for (size_t i = 0; i < inv_freq.size(); i++) {
    const float angle = static_cast<float>(position) * inv_freq[i];
    cos[i] = std::cos(angle) * factor;
    sin[i] = std::sin(angle) * factor;
  }
}

}  // namespace

Decoder::Decoder(DecoderConfig config, const TensorMap& tensors, Quantization quantization, int num_threads,
                 std::vector<int> cpus, Isa isa)
    : config_(std::move(config)),
      isa_(isa),
      elementwise_(elementwise(isa)),
      attention_(attention_kernels(isa)),
      pool_(std::make_shared<ThreadPool>(num_threads, std::move(cpus))),
      weights_(load_weights(config_, tensors, quantization, isa, *pool_)),
      next_item_(new std::atomic<int64_t>[static_cast<size_t>(config_.num_layers)]),
      clocks_(static_cast<size_t>(num_threads)) {}

void Decoder::allocate_kv(int64_t num_blocks, int64_t block_size, KvFormat format) {
  const std::lock_guard<std::mutex> lock(one_step_);
  AttentionShape shape = shape_of(0);
  shape.block_size = block_size;
  shape.format = format;
  cache_ = KvCache();  // first let go of the old one: both may not fit
  cache_ = KvCache(shape, config_.num_layers, num_blocks);
}

void Decoder::step(const StepInputs& inputs, float* logits) {
  const std::lock_guard<std::mutex> lock(one_step_);
  check(inputs);
  prepare(inputs);
  pool_->run([&](const Worker& worker) { run(worker, inputs, logits); });
  if (is_profiling_) profiled_steps_++;
}

void Decoder::start_profile() {
  const std::lock_guard<std::mutex> lock(one_step_);
  for (PhaseClock& clock : clocks_) clock.turn_on();
  is_profiling_ = true;
  profiled_steps_ = 0;
}

void Decoder::stop_profile() {
  const std::lock_guard<std::mutex> lock(one_step_);
  for (PhaseClock& clock : clocks_) clock.turn_off();
  is_profiling_ = false;
}

StepProfile Decoder::profile() const {
  const std::lock_guard<std::mutex> lock(one_step_);
  StepProfile profile{profiled_steps_, {}};
  for (const PhaseClock& clock : clocks_) profile.seconds.push_back(clock.seconds());
  return profile;
}

void Decoder::meet(const Worker& worker) {
  enter(worker, Phase::wait);
  worker.sync();
}

void Decoder::run(const Worker& worker, const StepInputs& inputs, float* logits) {
  clocks_[static_cast<size_t>(worker.rank)].start();
  embed(worker, inputs);
  fill_rope_tables(worker, inputs);
  for (int64_t layer = 0; layer < config_.num_layers; layer++) {
    attention_part(worker, inputs, layer);
    ffn_part(worker, inputs, layer);
  }
  finish(worker, inputs, logits);
  meet(worker);
  enter(worker, Phase::embed);
}

AttentionShape Decoder::shape_of(int64_t layer) const {
  return {config_.num_heads,
          config_.num_kv_heads,
          config_.head_dim,
          cache_.block_size(),
          config_.window[static_cast<size_t>(layer)],
          config_.softmax_scale,
          config_.attn_soft_cap,
          cache_.format()};
}

void Decoder::check(const StepInputs& inputs) const {
  PICERT_CHECK(cache_.num_blocks() > 0, "there is no K/V cache: call allocate_kv first");
  PICERT_CHECK(inputs.num_tokens >= 1 && inputs.num_tokens <= kMaxStepTokens, "a step has ",
               inputs.num_tokens, " tokens, must have 1 to ", kMaxStepTokens);
  for (int64_t i = 0; i < inputs.num_tokens; i++) {
    PICERT_CHECK(inputs.token_ids[i] >= 0 && inputs.token_ids[i] < config_.vocab_size, "token_ids[", i,
                 "] is ", inputs.token_ids[i], ", must be 0 to ", config_.vocab_size - 1);
    const int64_t num_slots = cache_.num_blocks() * cache_.block_size();
    PICERT_CHECK(inputs.slot_mapping[i] >= 0 && inputs.slot_mapping[i] < num_slots, "slot_mapping[", i,
                 "] is ", inputs.slot_mapping[i], ", must be 0 to ", num_slots - 1);
  }
  for (int64_t i = 0; i < inputs.num_logits; i++) {
    PICERT_CHECK(inputs.logits_indices[i] >= 0 && inputs.logits_indices[i] < inputs.num_tokens,
                 "logits_indices[", i, "] is ", inputs.logits_indices[i], ", must be 0 to ",
                 inputs.num_tokens - 1);
  }
  check_batch(inputs.batch, inputs.num_tokens, cache_.num_blocks(), cache_.block_size());
  for (int64_t seq = 0; seq < inputs.batch.num_seqs; seq++) check_positions(inputs, seq);
}

void Decoder::prepare(const StepInputs& inputs) {
  grow_buffers(std::max(inputs.num_tokens, inputs.num_logits));
  const AttentionShape shape = shape_of(0);
  plan_.build(shape, inputs.batch, pool_->size());
  const auto bytes = static_cast<size_t>(plan_.partials_size()) * sizeof(float);
  if (bytes > buffers_.partials.bytes()) buffers_.partials = AlignedBuffer(bytes);
  for (int64_t i = 0; i < config_.num_layers; i++) next_item_[static_cast<size_t>(i)] = 0;
}

void Decoder::grow_buffers(int64_t num_tokens) {
  if (num_tokens <= buffers_.capacity) return;
  const int64_t hidden = config_.hidden_size, ffn_rows = std::min(num_tokens, kFfnRows);
  const int64_t wide = std::max(hidden, config_.query_size()), half = config_.head_dim / 2;
  Buffers& b = buffers_;
  b.capacity = 0;
  b.scratch_stride = scratch_floats(shape_of(0));
  const std::pair<float**, int64_t> parts[] = {
      {&b.x, num_tokens * hidden},
      {&b.normed, num_tokens * hidden},
      {&b.q, num_tokens * config_.query_size()},
      {&b.k, num_tokens * config_.kv_size()},
      {&b.v, num_tokens * config_.kv_size()},
      {&b.gate, ffn_rows * config_.intermediate_size},
      {&b.up, ffn_rows * config_.intermediate_size},
      {&b.cos, num_tokens * half},
      {&b.sin, num_tokens * half},
      {&b.cos_local, num_tokens * half},
      {&b.sin_local, num_tokens * half},
      {&b.scratch, pool_->size() * b.scratch_stride},
  };
  constexpr int64_t kAlign = 16;  // floats of a cache line
  int64_t total = 0;
  for (const auto& part : parts) total += (part.second + kAlign - 1) / kAlign * kAlign;
  b.memory = AlignedBuffer();  // first let go of the old one: both may not fit
  b.memory = AlignedBuffer(static_cast<size_t>(total) * sizeof(float));
  float* next = b.memory.as<float>();
  for (const auto& part : parts) {
    *part.first = next;
    next += (part.second + kAlign - 1) / kAlign * kAlign;
  }
  activations_.reserve(num_tokens, wide, Precision::int16);
  activations_.reserve(ffn_rows, config_.intermediate_size);
  b.capacity = num_tokens;
}

void Decoder::embed(const Worker& worker, const StepInputs& inputs) {
  const auto [begin, end] = worker.share(inputs.num_tokens);
  for (int64_t i = begin; i < end; i++) {
    float* row = buffers_.x + i * config_.hidden_size;
    dequantize_row(weights_.embed, inputs.token_ids[i], row);
    if (config_.embed_scale != 1.0f) elementwise_.scale(row, config_.embed_scale, config_.hidden_size, row);
  }
}

void Decoder::fill_rope_tables(const Worker& worker, const StepInputs& inputs) {
  const int64_t half = config_.head_dim / 2;
  const auto [begin, end] = worker.share(inputs.num_tokens);
  for (int64_t i = begin; i < end; i++) {
    const int64_t at = i * half;
    fill_rope_row(config_.inv_freq, inputs.positions[i], config_.rope_factor, buffers_.cos + at,
                  buffers_.sin + at);
    fill_rope_row(config_.inv_freq_local, inputs.positions[i], 1.0f, buffers_.cos_local + at,
                  buffers_.sin_local + at);
  }
}

// `quantize` shares the rows among workers as this does, so each quantises what it has normed.
void Decoder::norm_and_quantize(const Worker& worker, Rows rows, const float* weight) {
  enter(worker, Phase::norm);
  const int64_t hidden = config_.hidden_size;
  float *x = buffers_.x + rows.first * hidden, *normed = buffers_.normed + rows.first * hidden;
  const auto [begin, end] = worker.share(rows.count);
  for (int64_t i = begin; i < end; i++) {
    elementwise_.rms_norm(x + i * hidden, weight, config_.rms_norm_eps, hidden, normed + i * hidden);
  }
  quantize(worker, isa_, normed, hidden, rows.count, hidden, activations_);
}

// x += normed, which holds what a part of the layer gave, normed once more where the model does that.
void Decoder::add_residual(const Worker& worker, Rows rows, const std::vector<float>& post_norm) {
  enter(worker, Phase::norm);
  const int64_t hidden = config_.hidden_size;
  const auto [begin, end] = worker.share(rows.count);
  for (int64_t i = rows.first + begin; i < rows.first + end; i++) {
    float* delta = buffers_.normed + i * hidden;
    if (!post_norm.empty()) {
      elementwise_.rms_norm(delta, post_norm.data(), config_.rms_norm_eps, hidden, delta);
    }
    elementwise_.add(delta, hidden, buffers_.x + i * hidden);
  }
}

void Decoder::attention_part(const Worker& worker, const StepInputs& inputs, int64_t layer) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t rows = inputs.num_tokens, q_size = config_.query_size(), kv_size = config_.kv_size();
  norm_and_quantize(worker, {0, rows}, w.attn_norm.data());
  meet(worker);
  enter(worker, Phase::qkv);
  linear(worker, isa_, w.q, activations_, rows, data_or_null(w.q_bias), buffers_.q, q_size);
  linear(worker, isa_, w.k, activations_, rows, data_or_null(w.k_bias), buffers_.k, kv_size);
  linear(worker, isa_, w.v, activations_, rows, data_or_null(w.v_bias), buffers_.v, kv_size);
  meet(worker);
  enter(worker, Phase::rope);
  rotate_and_store(worker, inputs, layer);
  meet(worker);
  enter(worker, Phase::attention);
  float* scratch = buffers_.scratch + worker.rank * buffers_.scratch_stride;
  plan_.run(worker, attention_, shape_of(layer), cache_.layer(layer), buffers_.q, scratch,
            buffers_.partials.as<float>(), next_item_[static_cast<size_t>(layer)], buffers_.q);
  meet(worker);
  enter(worker, Phase::o);
  quantize(worker, isa_, buffers_.q, q_size, rows, q_size, activations_);
  meet(worker);
  enter(worker, Phase::o);
  linear(worker, isa_, w.o, activations_, rows, nullptr, buffers_.normed, config_.hidden_size);
  meet(worker);
  add_residual(worker, {0, rows}, w.post_attn_norm);
}

// Heads of all tokens are the items: query heads first, then each key head with its value.
void Decoder::rotate_and_store(const Worker& worker, const StepInputs& inputs, int64_t layer) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const bool local = config_.is_local[static_cast<size_t>(layer)];
  const AttentionShape shape = shape_of(layer);
  const KvPages pages = cache_.layer(layer);
  const int64_t dim = config_.head_dim, half = dim / 2, heads = config_.num_heads;
  const int64_t per_token = heads + config_.num_kv_heads;
  const auto [begin, end] = worker.share(inputs.num_tokens * per_token);
  for (int64_t i = begin; i < end; i++) {
    const int64_t token = i / per_token, head = i % per_token, kv_head = head - heads;
    const bool is_key = kv_head >= 0;
    const int64_t kv_row = token * config_.num_kv_heads + kv_head;
    float* row = is_key ? buffers_.k + kv_row * dim : buffers_.q + (token * heads + head) * dim;
    const std::vector<float>& norm = is_key ? w.k_norm : w.q_norm;
    if (!norm.empty()) elementwise_.rms_norm(row, norm.data(), config_.rms_norm_eps, dim, row);
    const float* cos = local ? buffers_.cos_local : buffers_.cos;
    const float* sin = local ? buffers_.sin_local : buffers_.sin;
    elementwise_.rope(cos + token * half, sin + token * half, half, row);
    if (is_key) {
      attention_.store(shape, pages, inputs.slot_mapping[token], kv_head, row, buffers_.v + kv_row * dim);
    }
  }
}

void Decoder::ffn_part(const Worker& worker, const StepInputs& inputs, int64_t layer) {
  const bool several = inputs.num_tokens > kFfnRows;
  if (several) meet(worker);  // rows of x change hands: a pass is shared out anew
  for (int64_t first = 0; first < inputs.num_tokens; first += kFfnRows) {
    ffn_pass(worker, {first, std::min(kFfnRows, inputs.num_tokens - first)}, layer);
  }
  if (several) meet(worker);
}

void Decoder::ffn_pass(const Worker& worker, Rows rows, int64_t layer) {
  const LayerWeights& w = weights_.layers[static_cast<size_t>(layer)];
  const int64_t hidden = config_.hidden_size, ffn = config_.intermediate_size;
  norm_and_quantize(worker, rows, w.ffn_norm.data());
  meet(worker);
  enter(worker, Phase::gate_up);
  linear(worker, isa_, w.gate, activations_, rows.count, nullptr, buffers_.gate, ffn);
  linear(worker, isa_, w.up, activations_, rows.count, nullptr, buffers_.up, ffn);
  meet(worker);
  enter(worker, Phase::activation);
  const bool is_silu = config_.activation == Activation::silu;
  const auto gated_mul = is_silu ? elementwise_.silu_mul : elementwise_.gelu_tanh_mul;
  const auto [begin, end] = worker.share(rows.count);
  for (int64_t i = begin; i < end; i++) {
    float* gate = buffers_.gate + i * ffn;
    gated_mul(gate, buffers_.up + i * ffn, ffn, gate);
  }
  quantize(worker, isa_, buffers_.gate, ffn, rows.count, ffn, activations_);
  meet(worker);
  enter(worker, Phase::down);
  linear(worker, isa_, w.down, activations_, rows.count, nullptr, buffers_.normed + rows.first * hidden,
         hidden);
  meet(worker);
  add_residual(worker, rows, w.post_ffn_norm);
}

// Only the rows that are wanted get the final norm and logits. Rows of x change hands here.
void Decoder::finish(const Worker& worker, const StepInputs& inputs, float* logits) {
  const int64_t rows = inputs.num_logits, hidden = config_.hidden_size, vocab = config_.vocab_size;
  if (rows == 0) return;
  meet(worker);
  enter(worker, Phase::lm_head);
  const auto [begin, end] = worker.share(rows);
  for (int64_t i = begin; i < end; i++) {
    elementwise_.rms_norm(buffers_.x + inputs.logits_indices[i] * hidden, weights_.final_norm.data(),
                          config_.rms_norm_eps, hidden, buffers_.normed + i * hidden);
  }
  // In 16 bits: an error in the logits is not averaged out by a later layer. The weights bind, not this.
  quantize(worker, isa_, buffers_.normed, hidden, rows, hidden, activations_, Precision::int16);
  meet(worker);
  enter(worker, Phase::lm_head);
  linear(worker, isa_, weights_.lm_head, activations_, rows, nullptr, logits, vocab);
  if (config_.logit_soft_cap == 0.0f) return;
  meet(worker);
  enter(worker, Phase::lm_head);
  const auto [first, last] = worker.share(rows * vocab);
  elementwise_.soft_cap(logits + first, config_.logit_soft_cap, last - first, logits + first);
}

}  // namespace picert::cpu
