"""Builds picert._C and maps the top-level folders into the package; all else is in pyproject.toml.

Each instruction set is its own translation unit with its own flags (`*_avx2.cpp`, `*_avx512.cpp`),
so that the rest of the extension runs on any x86-64 machine and the choice is made at run time.
"""

import platform
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext, has_flag
from setuptools import setup

WARNINGS = ["-Wall", "-Wextra", "-Werror"]
ISA_FLAGS = {
    "_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"],
    "_avx2_vnni.cpp": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "_avx512.cpp": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
        *("-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
    ],
}
OPTIONAL_FLAGS = ["-mavxvnni"]  # GCC 11, Clang 12: without it that file serves like its neighbour


class BuildExtension(build_ext):
    """build_ext that adds the flags of a file's instruction set to that file alone."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile
        unknown = {flag for flag in OPTIONAL_FLAGS if not has_flag(self.compiler, flag)}

        def compile_with_isa(obj: str, src: str, ext: str, *others: list[str]) -> None:
            cc_args, extra_postargs, pp_opts = others
            isa = [flag for end, flags in ISA_FLAGS.items() if src.endswith(end) for flag in flags]
            known = [flag for flag in isa if flag not in unknown]
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *known], pp_opts)

        self.compiler._compile = compile_with_isa
        super().build_extensions()


def sources() -> list[str]:
    """Every C++ file of the extension; vector files only where the machine could run them."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    files = sorted(glob("csrc/*.cpp") + glob("csrc/*/*.cpp"))
    return files if x86 else [f for f in files if not f.endswith(tuple(ISA_FLAGS))]


ParallelCompile("PICERT_BUILD_JOBS", default=0).install()
setup(
    packages=[
        *("picert", "picert.engine", "picert.pice", "picert.transport"),
        *("picert.cloud", "picert.edge", "picert.commands", "picert.kernels", "picert.models"),
        *("picert.report", "picert.simulate"),
    ],
    package_dir={"picert.kernels": "kernels", "picert.models": "models"},
    ext_modules=[
        Pybind11Extension(
            "picert._C",
            sources(),
            include_dirs=["csrc"],
            depends=glob("csrc/*.h") + glob("csrc/*/*.h"),
            cxx_std=17,
            extra_compile_args=["-O3", "-fvisibility=hidden", "-pthread", *WARNINGS],
            extra_link_args=["-pthread"],
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
