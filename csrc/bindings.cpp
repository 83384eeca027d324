// bindings.cpp: the module picert._C. Arguments are checked and converted in the folders' binding files;
// nothing here knows torch.
#include <pybind11/pybind11.h>

namespace picert {
void bind_scheduling(pybind11::module_& module);
void bind_cpu(pybind11::module_& module);
void bind_sampling(pybind11::module_& module);
}  // namespace picert

PYBIND11_MODULE(_C, module) {
  module.doc() = "Scheduling core, CPU kernels and sampler of picert.";
  picert::bind_scheduling(module);
  picert::bind_cpu(module);
  picert::bind_sampling(module);
}
