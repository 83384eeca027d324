// model_weights.cpp: checks of a model's description and tensors, and their repacking.
#include "cpu/model_weights.h"

#include <cmath>
#include <initializer_list>
#include <set>
#include <stdexcept>
#include <utility>

#include "check.h"
#include "cpu/attention.h"
#include "cpu/balance_keys.h"

namespace picert::cpu {
namespace {

// Far above any model; products of two of them and the sizes of buffers stay within 64 bits.
constexpr int64_t kMaxSize = int64_t{1} << 24;

void check_size(const char* name, int64_t value) {
  PICERT_CHECK(value >= 1 && value <= kMaxSize, name, " is ", value, ", must be 1 to ", kMaxSize);
}

void check_length(const char* name, size_t length, int64_t wanted) {
  PICERT_CHECK(static_cast<int64_t>(length) == wanted, name, " has ", length, " entries, must have ", wanted);
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// Takes tensors by name, each once, and knows in the end which were left over.
class Loader {
 public:
  Loader(const TensorMap& tensors, Quantization quantization, Isa isa, ThreadPool& pool)
      : tensors_(tensors), quantization_(quantization), isa_(isa), pool_(pool) {}

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  TensorView view(const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = tensors_.find(name);
    PICERT_CHECK(found != tensors_.end(), "tensor ", name, " is missing");
    const RawTensor& tensor = found->second;
    PICERT_CHECK(tensor.shape == shape, "tensor ", name, " has shape ", shape_text(tensor.shape),
                 ", must be ", shape_text(shape));
    taken_.insert(name);
    return view_of(name, tensor);
  }

  std::vector<float> vector(const std::string& name, int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    dequantize_row(view(name, {size}), 0, values.data());
    return values;
  }

  PackedMatrix matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    return packed(name, outputs, inputs, quantization_ == Quantization::q4 ? DType::q4_1 : DType::q8_0);
  }

  PackedMatrix logits_matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    return packed(name, outputs, inputs, DType::q8_0);
  }

  void check_all_taken() const {
    for (const auto& entry : tensors_) {
      PICERT_CHECK(taken_.count(entry.first) != 0, "tensor ", entry.first, " is not part of this model");
    }
  }

 private:
  PackedMatrix packed(const std::string& name, int64_t outputs, int64_t inputs, DType dtype) {
    const TensorView weights = view(name, {outputs, inputs});
    if (quantization_ == Quantization::none) return pack(weights, isa_, pool_);
    try {
      return pack(quantize_weights(weights, dtype, pool_).view, isa_, pool_);
    } catch (const std::invalid_argument& error) {
      fail("tensor ", name, ": ", error.what());
    }
  }

  const TensorMap& tensors_;
  const Quantization quantization_;
  const Isa isa_;
  ThreadPool& pool_;
  std::set<std::string> taken_;
};

LayerWeights load_layer(const DecoderConfig& config, int64_t index, Loader& loader) {
  const std::string prefix = "layers." + std::to_string(index) + ".";
  const int64_t hidden = config.hidden_size, ffn = config.intermediate_size;
  const int64_t q_size = config.query_size(), kv_size = config.kv_size();
  LayerWeights layer;
  layer.attn_norm = loader.vector(prefix + "attn_norm.weight", hidden);
  layer.ffn_norm = loader.vector(prefix + "ffn_norm.weight", hidden);
  if (config.post_norms) {
    layer.post_attn_norm = loader.vector(prefix + "post_attn_norm.weight", hidden);
    layer.post_ffn_norm = loader.vector(prefix + "post_ffn_norm.weight", hidden);
  }
  if (config.qk_norm) {
    layer.q_norm = loader.vector(prefix + "q_norm.weight", config.head_dim);
    layer.k_norm = loader.vector(prefix + "k_norm.weight", config.head_dim);
  }
  if (config.qkv_bias) {
    layer.q_bias = loader.vector(prefix + "q.bias", q_size);
    layer.k_bias = loader.vector(prefix + "k.bias", kv_size);
    layer.v_bias = loader.vector(prefix + "v.bias", kv_size);
  }
  layer.q = loader.matrix(prefix + "q.weight", q_size, hidden);
  layer.k = loader.matrix(prefix + "k.weight", kv_size, hidden);
  layer.v = loader.matrix(prefix + "v.weight", kv_size, hidden);
  layer.o = loader.matrix(prefix + "o.weight", hidden, q_size);
  layer.gate = loader.matrix(prefix + "gate.weight", ffn, hidden);
  layer.up = loader.matrix(prefix + "up.weight", ffn, hidden);
  layer.down = loader.matrix(prefix + "down.weight", hidden, ffn);
  balance_keys(config, loader.view(prefix + "k.weight", {kv_size, hidden}), layer);
  return layer;
}

}  // namespace

TensorView view_of(const std::string& name, const RawTensor& tensor) {
  const std::vector<int64_t>& shape = tensor.shape;
  PICERT_CHECK(shape.size() == 1 || shape.size() == 2, "tensor ", name, " has shape ", shape_text(shape),
               ", must have 1 or 2 dimensions");
  constexpr int64_t kMaxRows = int64_t{1} << 31;
  for (const int64_t size : shape) {
    PICERT_CHECK(size >= 1 && size < kMaxRows, "tensor ", name, " has shape ", shape_text(shape),
                 ": sizes must be 1 to ", kMaxRows - 1);
  }
  const TensorView view{tensor.dtype, shape.size() == 2 ? shape[0] : 1, shape.back(), tensor.data};
  const int64_t block = traits(tensor.dtype).block_values;
  PICERT_CHECK(view.cols % block == 0, "tensor ", name, " has rows of ", view.cols,
               " values, its type packs ", block, " at a time");
  // Compared by division: hostile sizes could overflow the product.
  const auto row_bytes = static_cast<size_t>(view.row_bytes());
  PICERT_CHECK(
      tensor.num_bytes % row_bytes == 0 && tensor.num_bytes / row_bytes == static_cast<size_t>(view.rows),
      "tensor ", name, " of shape ", shape_text(shape), " has ", tensor.num_bytes, " bytes, must have ",
      view.rows, " rows of ", row_bytes);
  return view;
}

void DecoderConfig::check() const {
  check_size("num_layers", num_layers);
  check_size("num_heads", num_heads);
  check_size("num_kv_heads", num_kv_heads);
  check_size("hidden_size", hidden_size);
  check_size("intermediate_size", intermediate_size);
  check_size("vocab_size", vocab_size);
  PICERT_CHECK(num_heads % num_kv_heads == 0, "num_heads is ", num_heads,
               ", must be a multiple of num_kv_heads, ", num_kv_heads);
  PICERT_CHECK(head_dim >= 2 && head_dim <= kMaxHeadDim && head_dim % 2 == 0, "head_dim is ", head_dim,
               ", must be even and 2 to ", kMaxHeadDim);
  check_size("num_heads * head_dim", query_size());
  PICERT_CHECK(rms_norm_eps > 0.0f, "rms_norm_eps is ", rms_norm_eps, ", must be positive");
  PICERT_CHECK(std::isfinite(softmax_scale) && softmax_scale > 0.0f, "softmax_scale is ", softmax_scale,
               ", must be positive");
  PICERT_CHECK(attn_soft_cap >= 0.0f && logit_soft_cap >= 0.0f, "soft caps must not be negative");
  check_length("inv_freq", inv_freq.size(), head_dim / 2);
  check_length("window", window.size(), num_layers);
  check_length("is_local", is_local.size(), num_layers);
  for (const int64_t tokens : window)
    PICERT_CHECK(tokens >= 0, "window is ", tokens, ", must not be negative");
  bool any_local = false;
  for (const bool local : is_local) any_local = any_local || local;
  if (any_local || !inv_freq_local.empty())
    check_length("inv_freq_local", inv_freq_local.size(), head_dim / 2);
}

size_t ModelWeights::bytes() const {
  size_t total = embed_bytes.size() + final_norm.size() * sizeof(float) + lm_head.bytes();
  for (const LayerWeights& layer : layers) {
    for (const PackedMatrix* matrix :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      total += matrix->bytes();
    }
    for (const std::vector<float>* vector :
         {&layer.attn_norm, &layer.ffn_norm, &layer.post_attn_norm, &layer.post_ffn_norm, &layer.q_norm,
          &layer.k_norm, &layer.q_bias, &layer.k_bias, &layer.v_bias}) {
      total += vector->size() * sizeof(float);
    }
  }
  return total;
}

ModelWeights load_weights(const DecoderConfig& config, const TensorMap& tensors, Quantization quantization,
                          Isa isa, ThreadPool& pool) {
  config.check();
  Loader loader(tensors, quantization, isa, pool);
  ModelWeights weights;
  const TensorView table = loader.view("embed.weight", {config.vocab_size, config.hidden_size});
  weights.embed_bytes.assign(table.data, table.data + table.rows * table.row_bytes());
  weights.embed = table;
  weights.embed.data = weights.embed_bytes.data();
  for (int64_t i = 0; i < config.num_layers; i++) weights.layers.push_back(load_layer(config, i, loader));
  weights.final_norm = loader.vector("final_norm.weight", config.hidden_size);
  const std::string head = loader.has("lm_head.weight") ? "lm_head.weight" : "embed.weight";
  weights.lm_head = loader.logits_matrix(head, config.vocab_size, config.hidden_size);
  loader.check_all_taken();
  return weights;
}

}  // namespace picert::cpu
