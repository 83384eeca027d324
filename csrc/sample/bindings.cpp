// bindings.cpp: checks and conversions between Python and the sampler.
//
// The GIL is kept: a row takes about 10 us, and taking the GIL back from a busy thread takes up to its switch
// interval, 5 ms.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/numpy_args.h"
#include "sample/philox.h"
#include "sample/sampler.h"

namespace py = pybind11;

namespace picert {
namespace sample {
namespace {

using cpu::Array;
using cpu::array_arg;

TokenMask mask_arg(const py::object& object) {
  if (object.is_none()) return {};
  const Array<bool> array = array_arg<bool>(object, "mask", 1);
  return {array.data(), array.size()};  // the caller's object holds the memory
}

std::unique_ptr<SamplingState> make_state(double temperature, int64_t top_k, double top_p, double min_p,
                                          float repetition_penalty, float presence_penalty,
                                          float frequency_penalty,
                                          std::vector<std::pair<int32_t, float>> logit_bias,
                                          int64_t min_tokens, std::vector<int32_t> end_ids, int64_t num_top,
                                          uint64_t seed, const std::vector<int32_t>& prompt_ids) {
  SamplingParams params{temperature,
                        top_k,
                        top_p,
                        min_p,
                        repetition_penalty,
                        presence_penalty,
                        frequency_penalty,
                        std::move(logit_bias),
                        min_tokens,
                        std::move(end_ids),
                        num_top,
                        seed};
  return std::make_unique<SamplingState>(std::move(params), prompt_ids);
}

// Token ids [L], log-probabilities [L] and the best tokens of each row.
using Drawn = std::tuple<std::vector<int32_t>, std::vector<double>,
                         std::vector<std::vector<std::pair<int32_t, double>>>>;

Drawn sample(Sampler& sampler, const py::object& logits, const std::vector<SamplingState*>& states,
             const std::vector<py::object>& masks) {
  const auto rows = array_arg<float>(logits, "logits", 2);
  const auto count = static_cast<py::ssize_t>(states.size());
  PICERT_CHECK(rows.shape(0) == count, "logits has ", rows.shape(0), " rows for ", count, " states");
  PICERT_CHECK(rows.shape(1) >= sampler.vocab_size(), "logits has ", rows.shape(1),
               " columns, must have at least ", sampler.vocab_size());
  PICERT_CHECK(masks.empty() || masks.size() == states.size(), masks.size(), " masks for ", count, " states");
  std::vector<RowInput> inputs;
  for (py::ssize_t row = 0; row < count; row++) {
    const auto i = static_cast<size_t>(row);
    PICERT_CHECK(states[i] != nullptr, "state ", row, " is None");
    inputs.push_back({rows.data(row, 0), states[i], masks.empty() ? TokenMask{} : mask_arg(masks[i])});
  }
  Drawn out;
  auto& [token_ids, logprobs, tops] = out;
  for (Sampled& sampled : sampler.sample(inputs)) {
    token_ids.push_back(sampled.token_id);
    logprobs.push_back(sampled.logprob);
    tops.push_back(std::move(sampled.top));
  }
  return out;
}

std::tuple<std::vector<int32_t>, std::vector<float>> candidates(Sampler& sampler, const py::object& logits,
                                                                const SamplingState& state) {
  const auto row = cpu::sized_array_arg<float>(logits, "logits", {sampler.vocab_size()});
  const Candidates& found = sampler.candidates(row.data(), state.params());
  return {found.ids, found.values};
}

void shape(const SamplingState& state, const py::object& logits, const py::object& mask) {
  auto row = array_arg<float>(logits, "logits", 1);
  state.shape(row.mutable_data(), row.size(), mask_arg(mask));
}

void bind_state(py::module_& module) {
  py::class_<SamplingState>(module, "SamplingState", "What one request's next token depends on.")
      .def(py::init(&make_state), py::kw_only(), py::arg("temperature"), py::arg("top_k"), py::arg("top_p"),
           py::arg("min_p"), py::arg("repetition_penalty"), py::arg("presence_penalty"),
           py::arg("frequency_penalty"), py::arg("logit_bias"), py::arg("min_tokens"), py::arg("end_ids"),
           py::arg("num_top"), py::arg("seed"), py::arg("prompt_ids"))
      .def("record", &SamplingState::record, py::arg("token_id"))
      .def("shape", &shape, py::arg("logits"), py::arg("mask"), "Bias, penalties and bans, in place.")
      .def_property_readonly("num_generated", &SamplingState::num_generated);
}

void bind_sampler(py::module_& module) {
  py::class_<Sampler>(module, "Sampler", "Rows of logits to tokens.")
      .def(py::init([](int64_t vocab_size, std::shared_ptr<cpu::ThreadPool> team, const std::string& isa) {
             return std::make_unique<Sampler>(vocab_size, std::move(team), cpu::parse_isa(isa));
           }),
           py::arg("vocab_size"), py::arg("team") = nullptr, py::arg("isa") = "")
      .def("sample", &sample, py::arg("logits"), py::arg("states"), py::arg("masks"),
           "Token ids (-1: none), log-probabilities and best tokens of each row of logits [L, >= V].")
      .def("candidates", &candidates, py::arg("logits"), py::arg("state"),
           "Ids and weights of what may be drawn from shaped logits [V].");
}

}  // namespace
}  // namespace sample

void bind_sampling(py::module_& module) {
  sample::bind_state(module);
  sample::bind_sampler(module);
  module.def("philox_uniform", &sample::uniform, py::arg("seed"), py::arg("index"),
             "Draw `index` of the stream of `seed`, in [0, 1).");
}

}  // namespace picert
