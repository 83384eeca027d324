// model_weights.h: the weights of one dense decoder in the kernels' layouts, and the numbers that describe
// it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cpu/linear.h"
#include "cpu/quantize_weights.h"
#include "cpu/tensor.h"
#include "cpu/thread_pool.h"

namespace picert::cpu {

enum class Activation { silu, gelu_tanh };

// Everything about a network that is not a weight; 0 stands for "none". `check` throws std::invalid_argument
// for numbers that contradict each other or are out of reason.
struct DecoderConfig {
  int64_t num_layers, num_heads, num_kv_heads, head_dim, hidden_size, intermediate_size, vocab_size;
  float rms_norm_eps;
  bool qkv_bias, qk_norm, post_norms;
  Activation activation;
  float embed_scale, softmax_scale, attn_soft_cap, logit_soft_cap;
  float rope_factor;                  // on cos and sin of the global table
  std::vector<float> inv_freq;        // [head_dim / 2] radians per position
  std::vector<float> inv_freq_local;  // the same for layers that are local; empty if there are none
  std::vector<int64_t> window;        // [num_layers] sliding window in tokens, 0: sees everything
  std::vector<bool> is_local;         // [num_layers] uses inv_freq_local

  int64_t query_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
  void check() const;
};

// A tensor as it was handed over: bytes that live until the decoder is built.
struct RawTensor {
  DType dtype;
  std::vector<int64_t> shape;
  const uint8_t* data;
  size_t num_bytes;
};

// The tensor as rows. Throws std::invalid_argument, naming it, unless it has one or two dimensions of whole
// blocks and exactly the bytes that they take.
TensorView view_of(const std::string& name, const RawTensor& tensor);

using TensorMap = std::map<std::string, RawTensor>;

struct LayerWeights {
  std::vector<float> attn_norm, ffn_norm;            // [E]
  std::vector<float> post_attn_norm, post_ffn_norm;  // [E], empty without post_norms
  std::vector<float> q_norm, k_norm;                 // [D], empty without qk_norm
  std::vector<float> q_bias, k_bias, v_bias;         // empty without qkv_bias
  PackedMatrix q, k, v, o, gate, up, down;
};

struct ModelWeights {
  std::vector<uint8_t> embed_bytes;  // the embedding table as in the file: only single rows of it are read
  TensorView embed;                  // [V, E] over embed_bytes
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [E]
  PackedMatrix lm_head;           // of the embedding table where the model ties them

  size_t bytes() const;
};

// Check and repack `tensors` on all threads of `pool`, matrices quantised on the way if asked for. Throws
// std::invalid_argument that names the tensor if one is missing, unexpected or of another shape or length
// than `config` asks for, or is to be quantised and is that already.
ModelWeights load_weights(const DecoderConfig& config, const TensorMap& tensors, Quantization quantization,
                          Isa isa, ThreadPool& pool);

}  // namespace picert::cpu
