// bindings.cpp: the decoder and the machine's limits for Python. Every argument is checked here or in the
// decoder.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/decoder.h"
#include "cpu/machine_limits.h"
#include "cpu/numpy_args.h"

namespace py = pybind11;

namespace picert {
namespace cpu {

void bind_operations(py::module_& module);
void bind_timed(py::module_& module);

namespace {

template <typename T>
T field(const py::dict& config, const char* name) {
  PICERT_CHECK(config.contains(name), "config has no ", name);
  try {
    return py::cast<T>(config[name]);
  } catch (const py::cast_error&) {
    fail("config's ", name, " is ", std::string(py::repr(config[name])), ": that is of the wrong type");
  }
}

std::vector<float> table(const py::dict& config, const char* name) {
  PICERT_CHECK(config.contains(name), "config has no ", name);
  if (py::object(config[name]).is_none()) return {};
  const Array<float> values = array_arg<float>(config[name], name, 1);
  return std::vector<float>(values.data(), values.data() + values.size());
}

Activation activation_field(const py::dict& config) {
  const auto name = field<std::string>(config, "activation");
  PICERT_CHECK(name == "silu" || name == "gelu_tanh", "activation is '", name, "': use silu or gelu_tanh");
  return name == "silu" ? Activation::silu : Activation::gelu_tanh;
}

DecoderConfig decoder_config(const py::dict& given) {
  DecoderConfig config{};
  config.num_layers = field<int64_t>(given, "num_layers");
  config.num_heads = field<int64_t>(given, "num_heads");
  config.num_kv_heads = field<int64_t>(given, "num_kv_heads");
  config.head_dim = field<int64_t>(given, "head_dim");
  config.hidden_size = field<int64_t>(given, "hidden_size");
  config.intermediate_size = field<int64_t>(given, "intermediate_size");
  config.vocab_size = field<int64_t>(given, "vocab_size");
  config.rms_norm_eps = field<float>(given, "rms_norm_eps");
  config.qkv_bias = field<bool>(given, "qkv_bias");
  config.qk_norm = field<bool>(given, "qk_norm");
  config.post_norms = field<bool>(given, "post_norms");
  config.activation = activation_field(given);
  config.embed_scale = field<float>(given, "embed_scale");
  config.softmax_scale = field<float>(given, "softmax_scale");
  config.attn_soft_cap = field<float>(given, "attn_soft_cap");
  config.logit_soft_cap = field<float>(given, "logit_soft_cap");
  config.rope_factor = field<float>(given, "rope_factor");
  config.inv_freq = table(given, "inv_freq");
  config.inv_freq_local = table(given, "inv_freq_local");
  config.window = field<std::vector<int64_t>>(given, "window");
  config.is_local = field<std::vector<bool>>(given, "is_local");
  return config;
}

using TensorTuple = std::tuple<std::string, std::vector<int64_t>, py::object>;

std::unique_ptr<Decoder> make_decoder(const py::dict& config,
                                      const std::map<std::string, TensorTuple>& tensors, int num_threads,
                                      const std::string& isa, const std::string& quantization,
                                      std::vector<int> cpus) {
  TensorMap raw;
  for (const auto& [name, tensor] : tensors) {
    const auto& [dtype, shape, data] = tensor;
    raw.emplace(name, raw_tensor_arg(name, dtype, shape, data));
  }
  DecoderConfig parsed = decoder_config(config);
  const py::gil_scoped_release release;
  return std::make_unique<Decoder>(std::move(parsed), raw, parse_quantization(quantization), num_threads,
                                   std::move(cpus), parse_isa(isa));
}

void step(Decoder& decoder, const py::object& token_ids, const py::object& positions,
          const py::object& slot_mapping, const py::object& query_start, const py::object& context_lens,
          const py::object& block_tables, const py::object& logits_indices, const py::object& logits_out) {
  const auto tokens = array_arg<int32_t>(token_ids, "token_ids", 1);
  const int64_t num_tokens = tokens.size();
  const auto places = sized_array_arg<int32_t>(positions, "positions", {num_tokens});
  const auto slots = sized_array_arg<int32_t>(slot_mapping, "slot_mapping", {num_tokens});
  const auto lens = array_arg<int32_t>(context_lens, "context_lens", 1);
  const auto starts = sized_array_arg<int32_t>(query_start, "query_start", {lens.size() + 1});
  const auto blocks = array_arg<int32_t>(block_tables, "block_tables", 2);
  PICERT_CHECK(blocks.shape(0) == lens.size(), "block_tables has ", blocks.shape(0), " rows, must have ",
               lens.size());
  const auto indices = array_arg<int32_t>(logits_indices, "logits_indices", 1);
  auto out = sized_array_arg<float>(logits_out, "logits_out", {indices.size(), decoder.config().vocab_size});
  const StepInputs inputs{num_tokens,
                          indices.size(),
                          tokens.data(),
                          places.data(),
                          slots.data(),
                          indices.data(),
                          {lens.size(), blocks.shape(1), starts.data(), lens.data(), blocks.data()}};
  float* logits = out.mutable_data();
  const py::gil_scoped_release release;
  decoder.step(inputs, logits);
}

// {"num_steps": n, "seconds": {phase: [of each worker]}}
py::dict profile(const Decoder& decoder) {
  const StepProfile totals = decoder.profile();
  py::dict seconds;
  for (size_t i = 0; i < kNumPhases; i++) {
    py::list workers;
    for (const PhaseClock::Seconds& worker : totals.seconds) workers.append(worker[i]);
    seconds[phase_name(static_cast<Phase>(i))] = workers;
  }
  py::dict result;
  result["num_steps"] = totals.num_steps;
  result["seconds"] = seconds;
  return result;
}

void bind_decoder(py::module_& module) {
  py::class_<ThreadPool, std::shared_ptr<ThreadPool>>(module, "ThreadPool", "Threads that work as a team.")
      .def(py::init<int, std::vector<int>>(), py::arg("num_threads"), py::arg("cpus") = std::vector<int>())
      .def_property_readonly("size", &ThreadPool::size);
  py::class_<Decoder>(module, "Decoder", "One dense decoder on the CPU: a whole step without the GIL.")
      .def(py::init(&make_decoder), py::arg("config"), py::arg("tensors"), py::arg("num_threads"),
           py::arg("isa") = "", py::arg("quantization") = "none", py::arg("cpus") = std::vector<int>())
      .def(
          "allocate_kv",
          [](Decoder& decoder, int64_t num_blocks, int64_t block_size, const std::string& format) {
            decoder.allocate_kv(num_blocks, block_size, parse_kv_format(format));
          },
          py::arg("num_blocks"), py::arg("block_size"), py::arg("format") = "fp16",
          py::call_guard<py::gil_scoped_release>(), "Make the K/V memory anew; what was in it is lost.")
      .def("step", &step, py::arg("token_ids"), py::arg("positions"), py::arg("slot_mapping"),
           py::arg("query_start"), py::arg("context_lens"), py::arg("block_tables"),
           py::arg("logits_indices"), py::arg("logits_out"),
           "Run one step; int32 arrays as in StepBatch, logits [L, V] into logits_out.")
      .def("start_profile", &Decoder::start_profile, py::call_guard<py::gil_scoped_release>(),
           "Count the time of steps by phase, from nothing.")
      .def("stop_profile", &Decoder::stop_profile, py::call_guard<py::gil_scoped_release>(),
           "Count no longer.")
      .def("profile", &profile, "What was counted: num_steps, and the seconds of each phase and worker.")
      .def_property_readonly("isa", [](const Decoder& decoder) { return isa_name(decoder.isa()); })
      .def_property_readonly("num_threads", &Decoder::num_threads)
      .def_property_readonly("team", &Decoder::team, "Its threads, which a Sampler may use between steps.")
      .def_property_readonly("weight_bytes", &Decoder::weight_bytes)
      .def_property_readonly("kv_bytes", &Decoder::kv_bytes);
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa isa : supported_isas()) names.emplace_back(isa_name(isa));
  return names;
}

void bind_machine(py::module_& module) {
  module.def("best_isa", [] { return isa_name(best_isa()); }, "The largest instruction set of this CPU.");
  module.def("supported_isas", &isa_names, "All of this CPU, the best last.");
  module.def(
      "measure_bandwidth",
      [](int num_threads, size_t bytes) { return measure_bandwidth(num_threads, bytes, best_isa()); },
      py::arg("num_threads"), py::arg("bytes"), py::call_guard<py::gil_scoped_release>(),
      "GB/s that the threads read from a buffer of `bytes`; about half a second.");
  module.def(
      "measure_int8_peak", [](int num_threads) { return measure_int8_peak(num_threads, best_isa()); },
      py::arg("num_threads"), py::call_guard<py::gil_scoped_release>(),
      "8-bit multiply-accumulates per second, in 1e9; about a third of a second.");
  module.def(
      "measure_fp32_peak", [](int num_threads) { return measure_fp32_peak(num_threads, best_isa()); },
      py::arg("num_threads"), py::call_guard<py::gil_scoped_release>(),
      "fp32 multiply-accumulates per second, in 1e9; about a third of a second.");
}

}  // namespace
}  // namespace cpu

void bind_cpu(py::module_& module) {
  cpu::bind_decoder(module);
  cpu::bind_operations(module);
  cpu::bind_timed(module);
  cpu::bind_machine(module);
}

}  // namespace picert
