"""The architecture as a test: who may import whom, how large a file may be, and what must not be
there at all.

A change here is a change of the architecture; docs/architecture.md says why it is so.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MAPPED = {"kernels": "picert.kernels", "models": "picert.models"}  # top-level folder -> package
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_KERNEL_LINES = 120  # in kernels/
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

# Unit -> what of picert it may import. A unit is a package or a module; the longest match counts.
BASE = {"errors", "patience"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "patience": set(),
    "messages": {"errors"},
    "config": BASE,
    "log": BASE,
    "hub": {*BASE, "log", "hub_sources"},
    "hub_sources": {*BASE, "log"},
    "kernels": {*BASE, "kernels"},
    "kernels.native_ops": {*BASE, "kernels", "_C"},
    "models": {*BASE, "models", "kernels.ops", "kernels.quant_weight"},
    "engine": {*BASE, "engine", "models", "kernels", "messages", "config", "log", "_C"},
    "engine.llm": {*BASE, "engine", "messages", "config", "hub"},
    "pice": {*BASE, "pice", "messages", "config", "_C"},
    "transport": {*BASE, "transport", "messages", "config", "log"},
    "edge": {
        *(*BASE, "edge", "engine", "pice.prompts", "pice.profile_file", "transport"),
        *("messages", "config", "log", "hub", "models.weights", "version"),
    },
    "cloud": {
        *(*BASE, "cloud", "engine", "pice", "transport"),
        *("messages", "config", "log", "hub", "version"),
    },
    "client": {*BASE, "messages", "config"},
    "report": {*BASE, "report"},
    "simulate": {  # a whole system, so it may reach both ends; nobody else but its command does
        *(*BASE, "simulate", "engine.sampler", "engine.scoring", "engine.sequence"),
        *("pice", "messages", "config"),
        *("cloud.edges", "cloud.service", "edge.worker", "transport.events"),
        *("transport.liveness", "version"),
    },
    "commands.flags": {*BASE, "messages", "config"},
    "commands": {
        *(*BASE, "commands", "client", "messages", "config", "hub", "version", "_C"),
        *("cloud.main", "edge.main", "engine.llm", "engine.machine", "report"),
        *("transport.keys", "transport.doctor", "edge.identity"),
    },
    "commands.profile": {*BASE, "commands", "engine", "pice", "messages", "config", "hub"},
    "commands.simulate_flags": {*BASE, "commands.flags"},
    "commands.simulate": {*BASE, "commands.flags", "simulate", "pice", "config", "log"},
    "cli": {*BASE, "commands.flags", "commands.simulate_flags", "messages", "version"},
    "": {"client", "config", "engine", "messages"},  # picert/__init__.py, for type checkers only
}

# The same for packages of others. "stdlib" is always allowed.
THIRD_PARTY: dict[str, set[str]] = {
    "errors": set(),
    "patience": set(),
    "messages": {"msgspec"},
    "config": {"pydantic", "tomli"},
    "log": set(),
    "hub": {"pydantic", "tomli"},
    "hub_sources": {"pydantic", "huggingface_hub", "rich"},
    "kernels": {"torch", "numpy", "triton"},
    "models": {"torch", "numpy", "safetensors", "gguf", "tokenizers", "jinja2"},
    "engine": {"numpy", "msgspec"},
    "engine.torch_runner": {"torch", "numpy"},
    "engine.metrics": {"prometheus_client"},
    "engine.streams": {"torch"},
    "engine.fetch": {"torch", "numpy"},
    "engine.grammar": {"numpy", "llguidance"},
    "engine.sequence": {"msgspec"},
    "engine.scheduler": {"numpy"},
    "pice": {"tomli", "msgspec"},
    "transport": {"zmq", "msgspec"},
    "edge": set(),
    "edge.models": {"msgspec"},
    "edge.metrics": {"prometheus_client"},
    "cloud": {"msgspec"},
    "cloud.http": {"fastapi", "starlette", "msgspec"},
    "cloud.chat": {"fastapi", "msgspec"},
    "cloud.completions": {"fastapi"},
    "cloud.exchange": {"fastapi", "starlette"},
    "cloud.openapi": {"fastapi", "pydantic"},
    "cloud.field_list": {"pydantic"},
    "cloud.tokens": {"fastapi"},
    "cloud.server": {"starlette", "uvicorn"},
    "cloud.guard": {"starlette"},
    "cloud.door": {"starlette"},
    "cloud.admin": {"fastapi"},
    "cloud.main": {"starlette"},
    "cloud.tracing": {"opentelemetry", "starlette"},
    "cloud.metrics": {"fastapi", "prometheus_client"},
    "cloud.keys": {"pydantic"},
    "cloud.openai_request": {"pydantic", "pydantic_core"},
    "cloud.openai_schema": {"pydantic", "pydantic_core"},
    "cloud.openai_response": {"pydantic", "msgspec"},
    "client": {"httpx"},
    "report": set(),
    "report.bootstrap": {"numpy"},
    "simulate": {"msgspec"},
    "simulate.figures": {"numpy"},
    "report.plots": {"matplotlib"},
    "commands": {"rich", "msgspec"},
    "commands.flags": {"pydantic", "msgspec"},
    "commands.check": {"torch"},
    "commands.top": {"rich", "httpx", "prometheus_client"},
    "cli": set(),
    "": set(),
}

# Files that import a module by its name, each with its reason. No other import may wait.
IMPORT_BY_NAME = {
    "picert/__init__.py": "public names load on first use: a client does not need torch",
    "picert/engine/runner.py": "the native runner has no use for torch, seconds and 200 MB",
    "picert/engine/torch_runner.py": "triton, for GPUs alone, is not made for all systems",
    "picert/cloud/main.py": "OpenTelemetry is an extra, for those who send traces",
    "picert/commands/report.py": "matplotlib is an extra, and only this command needs it",
    "picert/cloud/writer.py": "the grammar engine loads with the first text of a prescribed form",
    "picert/cli.py": "--help must not wait for torch: a command's module loads when it is run",
}
UNSAFE = re.compile(
    r"\bpickle\b|\bdill\b|\bmarshal\b|\bshelve\b|(recv|send)_pyobj|weights_only\s*=\s*False"
    r"|trust_remote_code\s*=\s*True|(?<![.\w])(eval|exec)\("
)
MUTATORS = {
    *("append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove"),
    *("discard", "clear", "sort", "reverse", "appendleft", "popleft"),
}
MAY_INHERIT = {
    *("Protocol", "Enum", "Generic", "Module", "Struct", "BaseModel", "_Frozen", "_Input"),
    "_Generation",  # fields that both kinds of request have, which only inheritance gives pydantic
    *("Exception", "ValueError", "PicertError", "InvalidRequest", "Unavailable"),
    "Formatter",  # logging
    "ArgumentParser",  # its way to report an error is a method to replace
    "Response",  # what FastAPI takes from an endpoint
    *("SelectorEventLoop", "SelectSelector"),  # asyncio: its clock is a method to replace
    "ImmutableSandboxedEnvironment",  # jinja2: what a template may reach is a method to replace
}
CPP_FILES = sorted(
    file for file in (ROOT / "csrc").rglob("*") if file.suffix in {".h", ".cpp", ".cc", ".c"}
)


@dataclass(frozen=True)
class Source:
    path: str  # from the root
    module: str  # without "picert."
    text: str
    tree: ast.Module


def sources() -> list[Source]:
    """Every Python file that is installed."""
    found = []
    for folder, package in {"picert": "picert", **MAPPED}.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            place = file.relative_to(ROOT / folder).with_suffix("").parts
            parts = [*package.split(".")[1:], *place]
            if parts[-1] == "__init__":
                parts.pop()
            text = file.read_text(encoding="utf-8")
            path = file.relative_to(ROOT).as_posix()
            found.append(Source(path, ".".join(parts), text, ast.parse(text)))
    return found


SOURCES = sources()


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imports(source: Source) -> Iterator[str]:
    """Full names of the modules that a file imports."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "picert":
                yield from (f"picert.{alias.name}" for alias in node.names)
            else:
                yield node.module


def rule_for(table: dict[str, set[str]], module: str) -> set[str]:
    """The row of the longest unit that `module` is or is inside of."""
    units = [unit for unit in table if module == unit or (unit and module.startswith(f"{unit}."))]
    assert units, f"picert.{module} is in no row of the import table"
    return table[max(units, key=len)]


def is_in(module: str, units: set[str]) -> bool:
    return any(module == unit or module.startswith(f"{unit}.") for unit in units)


def own_imports(source: Source) -> set[str]:
    """What a file imports of picert, as the table spells it."""
    names = {name for name in imports(source) if name.split(".")[0] == "picert"}
    return {name.removeprefix("picert.").replace("__version__", "version") for name in names}


def test_files_import_only_what_their_row_allows() -> None:
    wrong = [
        f"{source.path} imports picert.{module}"
        for source in SOURCES
        for module in own_imports(source)
        if not is_in(module, rule_for(MAY_IMPORT, source.module))
    ]
    assert not wrong


def test_files_use_only_their_row_of_other_packages() -> None:
    known = {*sys.stdlib_module_names, "picert"}
    wrong = [
        f"{source.path} imports {name}"
        for source in SOURCES
        for name in imports(source)
        if name.split(".")[0] not in known | rule_for(THIRD_PARTY, source.module)
    ]
    assert not wrong


def test_import_table_has_no_stale_rows() -> None:
    modules = {source.module for source in SOURCES}
    stale = [
        unit
        for unit in {*MAY_IMPORT, *THIRD_PARTY} - {""}
        if not any(m == unit or m.startswith(f"{unit}.") for m in modules)
    ]
    assert not stale


def test_imports_stand_at_module_level() -> None:
    wrong = [
        f"{source.path}:{node.lineno}"
        for source in SOURCES
        for function in functions(source)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert not wrong


def test_only_listed_files_import_by_name() -> None:
    by_name = re.compile(r"import_module\(|__import__\(")
    assert {s.path for s in SOURCES if by_name.search(s.text)} == set(IMPORT_BY_NAME)


def test_files_are_within_their_budget() -> None:
    texts = {source.path: source.text for source in SOURCES}
    texts |= {f.relative_to(ROOT).as_posix(): f.read_text(encoding="utf-8") for f in CPP_FILES}
    lengths = {path: len(text.splitlines()) for path, text in texts.items()}
    assert not {path: n for path, n in lengths.items() if n > MAX_FILE_LINES}


def test_functions_are_within_their_budget() -> None:
    wrong = []
    for source in SOURCES:
        budget = MAX_KERNEL_LINES if source.path.startswith("kernels/") else MAX_FUNCTION_LINES
        for function in functions(source):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > budget:
                wrong.append(f"{source.path}:{function.lineno}: {function.name} has {lines} lines")
    assert not wrong


def test_names_of_files_say_what_is_inside() -> None:
    paths = [*(Path(source.path) for source in SOURCES), *CPP_FILES]
    assert not [path for path in paths if FORBIDDEN_NAMES & set(path.with_suffix("").parts)]


def test_nothing_unpickles_or_evaluates() -> None:
    found = [
        f"{source.path}: {match.group()}"
        for source in SOURCES
        for match in UNSAFE.finditer(source.text)
    ]
    assert not found


def test_public_things_say_what_they_are() -> None:
    silent = [f"{source.path}" for source in SOURCES if not ast.get_docstring(source.tree)]
    for source in SOURCES:
        for node in ast.iter_child_nodes(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                is_public = not node.name.startswith("_")
                if is_public and not ast.get_docstring(node):
                    silent.append(f"{source.path}: {node.name}")
    assert not silent


def changed_names(source: Source) -> set[str]:
    """Names whose value some code of the file changes in place, or rebinds with `global`."""
    names: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            names.update(node.names)
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            names.add(ast.unparse(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in MUTATORS:
                names.add(ast.unparse(node.func.value))
        elif isinstance(node, ast.AugAssign):
            names.add(ast.unparse(node.target))
    return names


def test_no_module_changes_its_own_state() -> None:
    wrong = []
    for source in SOURCES:
        top: set[str] = set()
        for node in source.tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                top.update(ast.unparse(target) for target in targets)
        wrong += [f"{source.path}: {name}" for name in top & changed_names(source)]
    assert not wrong


def test_classes_inherit_only_where_a_library_asks_for_it() -> None:
    wrong = []
    for source in SOURCES:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases}
                wrong += [f"{source.path}: {node.name}({b})" for b in bases - MAY_INHERIT]
    assert not wrong


def test_extension_includes_no_torch_header() -> None:
    header = re.compile(r"#include\s*[<\"](torch|ATen|c10)/")
    assert not [f for f in CPP_FILES if header.search(f.read_text(encoding="utf-8"))]
