"""The wheel holds what the tree holds, and no more; its metadata is what pip will believe."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import picert

ROOT = Path(__file__).parent.parent
FOLDERS = {"picert": "picert", "kernels": "picert/kernels", "models": "picert/models"}
LEFT_BEHIND = {"__pycache__", ".so", ".pyc"}  # made in the tree, not part of it
# As pip builds it, but for the compiler: the extension that the tests run with is taken as it is.
BUILD = """
import shutil, sys
from pybind11.setup_helpers import build_ext
from setuptools import build_meta
import picert._C

def take_compiled(self):
    target = self.get_ext_fullpath("picert._C")
    self.mkpath(target.rpartition("/")[0])
    shutil.copy(picert._C.__file__, target)

build_ext.build_extensions = take_compiled
build_meta.build_wheel(sys.argv[1])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of this tree."""
    source = tmp_path_factory.mktemp("source")
    for name in (*FOLDERS, "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def in_tree() -> set[str]:
    """Where each file of the three folders must be in the wheel."""
    return {
        f"{package}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, package in FOLDERS.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and not LEFT_BEHIND & {*file.parts, file.suffix}
    }


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_wheel_holds_the_tree_and_the_extension_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    extension = {name for name in files if name.startswith("picert/_C.") and name.endswith(".so")}
    assert len(extension) == 1
    assert files - extension == in_tree()


def test_wheel_holds_the_licence(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())
    assert metadata(wheel)["License-Expression"] == "Apache-2.0"


def test_wheel_is_of_this_version_and_for_these_pythons(wheel: zipfile.ZipFile) -> None:
    told = metadata(wheel)
    assert (told["Name"], told["Version"]) == ("picert", picert.__version__)
    assert told["Requires-Python"] == ">=3.10"


def test_every_package_that_is_imported_is_required(wheel: zipfile.ZipFile) -> None:
    names = {
        "zmq": "pyzmq",
        "starlette": "fastapi",
        "pydantic_core": "pydantic",
        "opentelemetry": "opentelemetry_sdk",
    }
    extras = tuple(f'extra == "{name}"' for name in ("gpu", "report", "otel"))
    required = {
        re.split("[^\\w.-]", line)[0].replace("-", "_").lower()
        for line in metadata(wheel).get_all("Requires-Dist", [])
        if "extra ==" not in line or line.endswith(extras)
    }
    imported = {
        node.module.split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if not isinstance(node, ast.ImportFrom) or node.module is not None
    }
    others = {names.get(name, name) for name in imported - sys.stdlib_module_names - {"picert"}}
    assert others <= required


@pytest.mark.parametrize("name", ["picert", "picert-cloud", "picert-edge"])
def test_entry_points_lead_to_functions(wheel: zipfile.ZipFile, name: str) -> None:
    (file,) = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    assert f"\n{name} = picert.cli:" in wheel.read(file).decode()
    (installed,) = entry_points(group="console_scripts", name=name)
    assert callable(installed.load())


def test_public_names_can_be_had() -> None:
    assert all(getattr(picert, name) is not None for name in picert.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = picert.Nothing


def test_setup_holds_the_extension_and_the_package_map_and_nothing_else() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (call,) = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"
    ]
    told = {keyword.arg for keyword in call.keywords}
    assert told == {"packages", "package_dir", "ext_modules", "cmdclass"}
