// bindings.cpp: checks and conversions between Python and the scheduling core.
#include <pybind11/pybind11.h>

namespace picert {
void bind_scheduling(pybind11::module_&) {}
}  // namespace picert
