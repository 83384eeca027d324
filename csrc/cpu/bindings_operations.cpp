// bindings_operations.cpp: the single kernels for Python, one call each: for tests, benchmarks and the
// curious. A decoder does not go through these.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "cpu/attention_args.h"
#include "cpu/elementwise.h"
#include "cpu/linear.h"
#include "cpu/numpy_args.h"
#include "cpu/quantize_weights.h"

namespace py = pybind11;

namespace picert::cpu {

void bind_operations(py::module_& module);

namespace {

Array<float> like(const Array<float>& array) {
  return Array<float>(std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
}

Array<float> dequantize(const std::string& dtype, const std::vector<int64_t>& shape, const py::object& data) {
  const TensorView view = view_of("data", raw_tensor_arg("data", dtype, shape, data));
  Array<float> out(std::vector<py::ssize_t>(shape.begin(), shape.end()));
  float* values = out.mutable_data();
  const py::gil_scoped_release release;
  for (int64_t row = 0; row < view.rows; row++) dequantize_row(view, row, values + row * view.cols);
  return out;
}

// The bytes of a matrix as blocks of `to`.
Array<uint8_t> quantize_weights_op(const std::string& dtype, const std::vector<int64_t>& shape,
                                   const py::object& data, const std::string& to, int num_threads) {
  const TensorView view = view_of("data", raw_tensor_arg("data", dtype, shape, data));
  QuantizedWeights quantized;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(num_threads);
    quantized = quantize_weights(view, parse_dtype(to), pool);
  }
  return Array<uint8_t>(static_cast<py::ssize_t>(quantized.bytes.size()), quantized.bytes.data());
}

Array<float> linear_op(const py::object& x, const std::string& dtype, const std::vector<int64_t>& shape,
                       const py::object& data, const py::object& bias, int num_threads,
                       const std::string& isa_text) {
  PICERT_CHECK(shape.size() == 2, "the weight has ", shape.size(), " dimensions, must have 2");
  const TensorView weight = view_of("data", raw_tensor_arg("data", dtype, shape, data));
  const auto input = array_arg<float>(x, "x", 2);
  PICERT_CHECK(input.shape(1) == weight.cols, "x has ", input.shape(1), " columns, the weight ", weight.cols);
  Array<float> bias_array;
  if (!bias.is_none()) bias_array = sized_array_arg<float>(bias, "bias", {weight.rows});
  const int64_t rows = input.shape(0);
  Array<float> out({rows, weight.rows});
  const float *from = input.data(), *add = bias.is_none() ? nullptr : bias_array.data();
  float* to = out.mutable_data();
  const Isa isa = parse_isa(isa_text);
  const py::gil_scoped_release release;
  ThreadPool pool(num_threads);
  const PackedMatrix packed = pack(weight, isa, pool);
  Activations activations;
  activations.reserve(rows, weight.cols);
  pool.run([&](const Worker& worker) {
    quantize(worker, isa, from, weight.cols, rows, weight.cols, activations);
    worker.sync();
    linear(worker, isa, packed, activations, rows, add, to, weight.rows);
  });
  return out;
}

Array<float> rms_norm_op(const py::object& x, const py::object& weight, float eps, const std::string& isa) {
  const auto rows = array_arg<float>(x, "x", 2);
  const auto factors = sized_array_arg<float>(weight, "weight", {rows.shape(1)});
  Array<float> out = like(rows);
  const Elementwise& functions = elementwise(parse_isa(isa));
  for (py::ssize_t i = 0; i < rows.shape(0); i++) {
    functions.rms_norm(rows.data(i, 0), factors.data(), eps, rows.shape(1), out.mutable_data(i, 0));
  }
  return out;
}

using GatedMul = void (*)(const float*, const float*, int64_t, float*);

Array<float> gated_mul(GatedMul function, const py::object& gate, const py::object& up) {
  const auto gates = array_arg<float>(gate, "gate", 2);
  const auto ups = sized_array_arg<float>(up, "up", {gates.shape(0), gates.shape(1)});
  Array<float> out = like(gates);
  for (py::ssize_t i = 0; i < gates.shape(0); i++) {
    function(gates.data(i, 0), ups.data(i, 0), gates.shape(1), out.mutable_data(i, 0));
  }
  return out;
}

Array<float> soft_cap_op(const py::object& x, float cap, const std::string& isa) {
  PICERT_CHECK(cap > 0.0f, "cap is ", cap, ", must be positive");
  const auto rows = array_arg<float>(x, "x", 2);
  Array<float> out = like(rows);
  elementwise(parse_isa(isa)).soft_cap(rows.data(), cap, rows.size(), out.mutable_data());
  return out;
}

Array<float> rope_op(const py::object& x, const py::object& cos, const py::object& sin,
                     const std::string& isa) {
  const auto heads = array_arg<float>(x, "x", 3);
  const int64_t half = heads.shape(2) / 2;
  PICERT_CHECK(heads.shape(2) == 2 * half, "x has heads of ", heads.shape(2), " values, must be even");
  const auto cosines = sized_array_arg<float>(cos, "cos", {heads.shape(0), half});
  const auto sines = sized_array_arg<float>(sin, "sin", {heads.shape(0), half});
  Array<float> out = like(heads);
  std::copy(heads.data(), heads.data() + heads.size(), out.mutable_data());
  const Elementwise& functions = elementwise(parse_isa(isa));
  for (py::ssize_t t = 0; t < heads.shape(0); t++) {
    for (py::ssize_t h = 0; h < heads.shape(1); h++) {
      functions.rope(cosines.data(t, 0), sines.data(t, 0), half, out.mutable_data(t, h, 0));
    }
  }
  return out;
}

Array<float> attention_op(const py::object& q, const py::object& keys, const py::object& values,
                          const py::object& query_start, const py::object& context_lens,
                          const py::object& block_tables, float scale, int64_t window, float soft_cap,
                          int num_threads, const std::string& isa, const std::string& kv_format) {
  PICERT_CHECK(window >= 0 && soft_cap >= 0.0f, "window and soft_cap must not be negative");
  AttentionArgs a = attention_args(q, keys, values, query_start, context_lens, block_tables);
  a.shape.scale = scale;
  a.shape.window = window;
  a.shape.soft_cap = soft_cap;
  a.shape.format = parse_kv_format(kv_format);
  const AttentionKernels& kernels = attention_kernels(parse_isa(isa));
  Array<float> out = like(a.q);
  const float* from = a.q.data();
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  KvCache cache(a.shape, 1, a.keys.shape(0));
  fill_layer(kernels, a, cache.layer(0));
  AttentionPlan plan;
  plan.build(a.shape, a.batch, num_threads);
  ThreadPool pool(num_threads);
  std::vector<float> partials(static_cast<size_t>(plan.partials_size()));
  const int64_t stride = scratch_floats(a.shape);
  std::vector<float> scratch(static_cast<size_t>(stride * num_threads));
  std::atomic<int64_t> next{0};
  pool.run([&](const Worker& worker) {
    plan.run(worker, kernels, a.shape, cache.layer(0), from, scratch.data() + worker.rank * stride,
             partials.data(), next, to);
  });
  return out;
}

}  // namespace

void bind_operations(py::module_& module) {
  module.def("dequantize", &dequantize, py::arg("dtype"), py::arg("shape"), py::arg("data"),
             "A GGUF tensor's values in fp32.");
  module.def("quantize_weights", &quantize_weights_op, py::arg("dtype"), py::arg("shape"), py::arg("data"),
             py::arg("to"), py::arg("num_threads") = 1,
             "F32, F16 or BF16 as the bytes of Q4_1 or Q8_0 blocks.");
  module.def("linear", &linear_op, py::arg("x"), py::arg("dtype"), py::arg("shape"), py::arg("data"),
             py::arg("bias"), py::arg("num_threads"), py::arg("isa"), "x[M, K] @ weight[N, K]^T + bias[N].");
  module.def("rms_norm", &rms_norm_op, py::arg("x"), py::arg("weight"), py::arg("eps"), py::arg("isa"));
  module.def(
      "silu_mul",
      [](const py::object& gate, const py::object& up, const std::string& isa) {
        return gated_mul(elementwise(parse_isa(isa)).silu_mul, gate, up);
      },
      py::arg("gate"), py::arg("up"), py::arg("isa"));
  module.def(
      "gelu_tanh_mul",
      [](const py::object& gate, const py::object& up, const std::string& isa) {
        return gated_mul(elementwise(parse_isa(isa)).gelu_tanh_mul, gate, up);
      },
      py::arg("gate"), py::arg("up"), py::arg("isa"));
  module.def("soft_cap", &soft_cap_op, py::arg("x"), py::arg("cap"), py::arg("isa"));
  module.def("rope", &rope_op, py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("isa"),
             "x[T, H, D] with the pairs (d, d + D/2) rotated by cos, sin [T, D/2].");
  module.def(
      "attention", &attention_op, py::arg("q"), py::arg("k_cache"), py::arg("v_cache"),
      py::arg("query_start"), py::arg("context_lens"), py::arg("block_tables"), py::arg("scale"),
      py::arg("window"), py::arg("soft_cap"), py::arg("num_threads"), py::arg("isa"),
      py::arg("kv_format") = "fp16",
      "q[T, H, D] over caches [N, B, G, D], rounded to kv_format first, as Ops.attention; 0 for none.");
}

}  // namespace picert::cpu
