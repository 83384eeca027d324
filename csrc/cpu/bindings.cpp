// bindings.cpp: checks and conversions between Python and the CPU kernels.
#include <pybind11/pybind11.h>

namespace picert {
void bind_cpu(pybind11::module_&) {}
}  // namespace picert
