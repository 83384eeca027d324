// bindings.cpp: checks and conversions between Python and the scheduling core.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "check.h"
#include "sched/block_pool.h"
#include "sched/step_scheduler.h"

namespace py = pybind11;

namespace picert {
namespace sched {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

using TokenArray = Array<Token>;

template <typename T>
void check_vector(const Array<T>& array, const char* name) {
  PICERT_CHECK(array.ndim() == 1, name, " has ", array.ndim(), " dimensions, must have 1");
}

const Token* one_block(const BlockPool& pool, const TokenArray& tokens) {
  check_vector(tokens, "tokens");
  PICERT_CHECK(tokens.size() == pool.block_size(), "a block holds ", pool.block_size(), " tokens, given ",
               tokens.size());
  return tokens.data();
}

std::optional<std::tuple<BlockId, PrefixId>> find(const BlockPool& pool, PrefixId parent,
                                                  const TokenArray& tokens) {
  const BlockId block = pool.find(parent, one_block(pool, tokens));
  if (block == kNoBlock) return std::nullopt;
  return std::make_tuple(block, pool.prefix_of(block));
}

void add(StepScheduler& scheduler, SeqId id, const TokenArray& prompt, int32_t max_len, int32_t priority,
         uint64_t salt, int32_t max_cached, int32_t max_chunk) {
  check_vector(prompt, "prompt");
  scheduler.add(id, std::vector<Token>(prompt.data(), prompt.data() + prompt.size()), max_len, priority, salt,
                {max_cached, max_chunk});
}

void append(StepScheduler& scheduler, const std::vector<SeqId>& ids, const std::vector<Token>& tokens) {
  PICERT_CHECK(ids.size() == tokens.size(), ids.size(), " sequences and ", tokens.size(), " tokens");
  for (size_t i = 0; i < ids.size(); i++) scheduler.append(ids[i], tokens[i]);
}

void reserve(StepScheduler& scheduler, const std::vector<SeqId>& ids, const std::vector<int32_t>& rows) {
  PICERT_CHECK(ids.size() == rows.size(), ids.size(), " sequences and ", rows.size(), " rows");
  for (size_t i = 0; i < ids.size(); i++) scheduler.reserve(ids[i], rows[i]);
}

std::tuple<int32_t, int32_t, int32_t> schedule(StepScheduler& scheduler) {
  const Step& step = scheduler.schedule();
  return {step.num_seqs, step.num_tokens, step.num_logits};
}

// A numpy view of one of the step's arrays, at its largest size; it keeps the scheduler alive.
template <typename T>
auto view(std::vector<T> Step::* member) {
  return [member](const py::object& self) {
    const std::vector<T>& values = self.cast<const StepScheduler&>().step().*member;
    return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data(), self);
  };
}

py::array_t<int32_t> block_tables(const py::object& self) {
  const auto& scheduler = self.cast<const StepScheduler&>();
  const py::ssize_t rows = scheduler.limits().max_num_seqs;
  return py::array_t<int32_t>({rows, py::ssize_t{scheduler.table_width()}},
                              scheduler.step().block_tables.data(), self);
}

void bind_block_pool(py::module_& module) {
  py::class_<BlockPool>(module, "BlockPool")
      .def(py::init<int32_t, int32_t>(), py::arg("num_blocks"), py::arg("block_size"))
      .def("allocate", &BlockPool::allocate)
      .def("acquire", &BlockPool::acquire, py::arg("block"))
      .def("release", &BlockPool::release, py::arg("block"))
      .def("find", &find, py::arg("parent"), py::arg("tokens"))
      .def(
          "publish",
          [](BlockPool& pool, BlockId block, PrefixId parent, const TokenArray& tokens) {
            return pool.publish(block, parent, one_block(pool, tokens));
          },
          py::arg("block"), py::arg("parent"), py::arg("tokens"))
      .def_property_readonly("num_free", &BlockPool::num_free)
      .def_property_readonly("num_published", &BlockPool::num_published)
      .def_static("root_prefix", &root_prefix, py::arg("salt") = 0)
      .def("self_check", &BlockPool::self_check);
}

void bind_scheduler_state(py::class_<StepScheduler>& scheduler) {
  scheduler.def_property_readonly("num_running", &StepScheduler::num_running)
      .def_property_readonly("num_waiting", &StepScheduler::num_waiting)
      .def_property_readonly("num_free_blocks", [](const StepScheduler& s) { return s.pool().num_free(); })
      .def_property_readonly("num_published_blocks",
                             [](const StepScheduler& s) { return s.pool().num_published(); })
      .def_property_readonly("preemptions", [](const StepScheduler& s) { return s.counters().preemptions; })
      .def_property_readonly("prefix_queried_tokens",
                             [](const StepScheduler& s) { return s.counters().prefix_queried_tokens; })
      .def_property_readonly("prefix_hit_tokens",
                             [](const StepScheduler& s) { return s.counters().prefix_hit_tokens; })
      .def_property_readonly("seq_ids", view(&Step::seq_ids))
      .def_property_readonly("token_ids", view(&Step::token_ids))
      .def_property_readonly("positions", view(&Step::positions))
      .def_property_readonly("slot_mapping", view(&Step::slot_mapping))
      .def_property_readonly("query_start", view(&Step::query_start))
      .def_property_readonly("context_lens", view(&Step::context_lens))
      .def_property_readonly("block_tables", &block_tables)
      .def_property_readonly("logits_indices", view(&Step::logits_indices))
      .def_property_readonly("sample_rows", view(&Step::sample_rows));
}

void bind_step_scheduler(py::module_& module) {
  py::class_<StepScheduler> scheduler(module, "StepScheduler");
  scheduler
      .def(py::init([](int32_t num_blocks, int32_t block_size, int32_t max_num_seqs,
                       int32_t max_num_batched_tokens, int32_t max_model_len, bool prefix_caching,
                       bool chunked_prefill) {
             return std::make_unique<StepScheduler>(SchedulerLimits{num_blocks, block_size, max_num_seqs,
                                                                    max_num_batched_tokens, max_model_len,
                                                                    prefix_caching, chunked_prefill});
           }),
           py::kw_only(), py::arg("num_blocks"), py::arg("block_size"), py::arg("max_num_seqs"),
           py::arg("max_num_batched_tokens"), py::arg("max_model_len"), py::arg("prefix_caching"),
           py::arg("chunked_prefill"))
      .def("add", &add, py::arg("seq_id"), py::arg("prompt"), py::arg("max_len"), py::arg("priority"),
           py::arg("salt"), py::arg("max_cached") = ReadLimits().max_cached,
           py::arg("max_chunk") = ReadLimits().max_chunk)
      .def("remove", &StepScheduler::remove, py::arg("seq_id"))
      .def("append", &append, py::arg("seq_ids"), py::arg("token_ids"))
      .def("reserve", &reserve, py::arg("seq_ids"), py::arg("rows"))
      .def("schedule", &schedule)
      .def("num_cached_tokens", &StepScheduler::num_cached_tokens, py::arg("seq_id"))
      .def("self_check", &StepScheduler::self_check);
  bind_scheduler_state(scheduler);
}

}  // namespace
}  // namespace sched

void bind_dispatching(py::module_& module);

void bind_scheduling(py::module_& module) {
  sched::bind_block_pool(module);
  sched::bind_step_scheduler(module);
  bind_dispatching(module);
}

}  // namespace picert
