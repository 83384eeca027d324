"""The C++ test programs of tests/csrc, built with sanitisers; each of their cases is one here."""

import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc" / "cpu"
COMPILER = os.environ.get("CXX", "c++").split()
X86 = platform.machine().lower() in {"x86_64", "amd64"}
ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread",)

SOURCES = ["thread_pool", "isa", "tensor", "blocks", "pack", "quantize", "linear", "linear_scalar"]
ISA_FLAGS = {
    "linear_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "linear_avx2_vnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "linear_avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
        *("-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
    ],
}
PROGRAMS = {
    "tensor_test": (["tensor", "blocks", "isa"], ADDRESS),
    "linear_test": ([*SOURCES, *(ISA_FLAGS if X86 else [])], ADDRESS),
    "attention_plan_test": (["attention_plan", "thread_pool", "isa"], ADDRESS),
    "thread_pool_test": (["thread_pool", "isa"], THREAD),
}

pytestmark = pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason="no C++ compiler here")


def case_names() -> list[tuple[str, str]]:
    """(program, case) as the programs' own tables have them, read without building."""
    names = {}
    for program in PROGRAMS:
        text = (ROOT / f"tests/csrc/{program}.cpp").read_text()
        names[program] = re.findall(r'\{"(\w+)", \w+\}', text)
    return [(program, case) for program, cases in names.items() for case in cases]


def compile_object(source: Path, sanitizer: tuple[str, ...], out: Path) -> Path:
    """One object file; the optimiser is on because the kernels' intrinsics are unusable without."""
    flags = ["-std=c++17", "-O1", "-g1", "-pthread", "-Wall", "-Wextra", "-Werror", *sanitizer]
    command = [*COMPILER, *flags, *ISA_FLAGS.get(source.stem, []), f"-I{ROOT / 'csrc'}"]
    made = out / f"{source.stem}.o"
    subprocess.run([*command, "-c", str(source), "-o", str(made)], check=True)
    return made


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every test program, built."""
    built = {}
    for program, (names, sanitizer) in PROGRAMS.items():
        out = tmp_path_factory.mktemp(program)
        sources = [ROOT / "tests/csrc" / f"{program}.cpp", *(KERNELS / f"{n}.cpp" for n in names)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda s, o=out, z=sanitizer: compile_object(s, z, o), sources))
        built[program] = out / program
        link = [*COMPILER, "-pthread", *sanitizer, *map(str, objects), "-o", str(built[program])]
        subprocess.run(link, check=True)
    return built


@pytest.mark.timeout(240)  # the first case waits for the build of all programs
@pytest.mark.parametrize(("program", "case"), case_names())
def test_native(programs: dict[str, Path], program: str, case: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PICERT_ISA"}
    command = [programs[program], case]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
