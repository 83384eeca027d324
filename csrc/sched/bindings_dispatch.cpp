// bindings_dispatch.cpp: checks and conversions between Python and what decides over jobs and edges.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"
#include "sched/dispatch_lists.h"
#include "sched/segment_batcher.h"

namespace py = pybind11;

namespace picert {
namespace sched {
namespace {

using Steps = std::vector<std::pair<int32_t, double>>;

constexpr std::array<std::pair<const char*, Discipline>, 5> kDisciplines = {{
    {"lists", Discipline::kLists},
    {"fifo", Discipline::kFifo},
    {"shortest_first", Discipline::kShortestFirst},
    {"round_robin", Discipline::kRoundRobin},
    {"least_loaded", Discipline::kLeastLoaded},
}};

Discipline discipline_of(const std::string& name) {
  for (const auto& [known, discipline] : kDisciplines) {
    if (name == known) return discipline;
  }
  fail("discipline is '", name, "', must be lists, fifo, shortest_first, round_robin or least_loaded");
}

std::optional<std::tuple<EdgeId, std::vector<JobId>>> pull(DispatchLists& lists, double now) {
  std::optional<Pull> pulled = lists.pull(now);
  if (!pulled) return std::nullopt;
  return std::make_tuple(pulled->edge, std::move(pulled->jobs));
}

void bind_segment_batcher(py::module_& module) {
  py::class_<SegmentBatcher>(module, "SegmentBatcher")
      .def(py::init<>())
      .def("group", &SegmentBatcher::group, py::arg("tokens"), py::arg("step_s"), py::arg("read_s"))
      .def_property_readonly("seconds", &SegmentBatcher::seconds)
      .def("self_check", &SegmentBatcher::self_check);
}

void bind_lists_state(py::class_<DispatchLists>& lists) {
  lists.def_property_readonly("num_waiting", &DispatchLists::num_waiting)
      .def_property_readonly("num_slots", &DispatchLists::num_slots)
      .def_property_readonly("num_free", &DispatchLists::num_free)
      .def_property_readonly("num_requests", &DispatchLists::num_requests)
      .def_property_readonly("waiting_tokens", &DispatchLists::waiting_tokens)
      .def_property_readonly("waiting_jobs", &DispatchLists::waiting_jobs)
      .def_property_readonly("pulls", [](const DispatchLists& d) { return d.counters().pulls; })
      .def_property_readonly("stolen", [](const DispatchLists& d) { return d.counters().stolen; })
      .def_property_readonly("held", [](const DispatchLists& d) { return d.counters().held; })
      .def_property_readonly("overruns", [](const DispatchLists& d) { return d.counters().overruns; })
      .def("num_running", &DispatchLists::num_running, py::arg("edge"))
      .def("running_s", &DispatchLists::running_s, py::arg("edge"), py::arg("now"))
      .def("others_tokens_per_s", &DispatchLists::others_tokens_per_s, py::arg("edge"))
      .def("least_loaded", &DispatchLists::least_loaded, py::arg("limit"))
      .def("share_of_speed", &DispatchLists::share_of_speed, py::arg("edges"))
      .def("backlog_s", &DispatchLists::backlog_s, py::arg("now"))
      .def("self_check", &DispatchLists::self_check);
}

void bind_dispatch_lists(py::module_& module) {
  py::class_<DispatchLists> lists(module, "DispatchLists");
  lists
      .def(py::init([](const std::string& discipline, double aging_s) {
             return std::make_unique<DispatchLists>(discipline_of(discipline), aging_s);
           }),
           py::arg("discipline"), py::arg("aging_s"))
      .def(
          "add_edge",
          [](DispatchLists& self, int32_t slots, int64_t kv_tokens, double link_s, double read_s,
             Steps step_s) { return self.add_edge(slots, kv_tokens, {link_s, read_s, std::move(step_s)}); },
          py::kw_only(), py::arg("slots"), py::arg("kv_tokens"), py::arg("link_s"), py::arg("read_s"),
          py::arg("step_s"))
      .def(
          "set_speed",
          [](DispatchLists& self, EdgeId edge, double link_s, double read_s, Steps step_s) {
            self.set_speed(edge, {link_s, read_s, std::move(step_s)});
          },
          py::arg("edge"), py::kw_only(), py::arg("link_s"), py::arg("read_s"), py::arg("step_s"))
      .def("set_available", &DispatchLists::set_available, py::arg("edge"), py::arg("is_available"))
      .def("remove_edge", &DispatchLists::remove_edge, py::arg("edge"))
      .def(
          "add",
          [](DispatchLists& self, JobId id, RequestId request, int32_t prompt_tokens, int32_t tail_tokens,
             int32_t tokens, int64_t kv_tokens, double now, bool goes_first, std::vector<EdgeId> avoid) {
            self.add(id, request, {prompt_tokens, tail_tokens, tokens, kv_tokens}, now, goes_first,
                     std::move(avoid));
          },
          py::arg("job"), py::arg("request"), py::kw_only(), py::arg("prompt_tokens"), py::arg("tail_tokens"),
          py::arg("tokens"), py::arg("kv_tokens"), py::arg("now"), py::arg("goes_first") = false,
          py::arg("avoid") = std::vector<EdgeId>{})
      .def("remove", &DispatchLists::remove, py::arg("job"))
      .def("recount", &DispatchLists::recount, py::arg("job"), py::arg("written"), py::arg("now"))
      .def("pull", &pull, py::arg("now"));
  bind_lists_state(lists);
}

}  // namespace
}  // namespace sched

void bind_dispatching(py::module_& module) {
  sched::bind_segment_batcher(module);
  sched::bind_dispatch_lists(module);
}

}  // namespace picert
