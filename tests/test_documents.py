"""Documents drift where nothing reads them: links, commands and Python in them are tried here."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import picert
from picert import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PROGRAMS = {"picert": cli.main, "picert-cloud": cli.cloud_main, "picert-edge": cli.edge_main}

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


@every_page
def test_links_lead_to_files(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@every_page
def test_commands_have_the_flags_that_are_written(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("run", "cloud", "edge", "pull", "listing", "keygen", "doctor")
    ran = SimpleNamespace(**dict.fromkeys(names, _succeed))
    monkeypatch.setattr(cli, "import_module", lambda name: ran)
    for _, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("picert"):
                program, *argv = shlex.split(line, comments=True)
                assert PROGRAMS[program](argv) == 0, capsys.readouterr().err


@every_page
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, name in TEST.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        if name:
            assert re.search(rf"def {name}\(", (ROOT / file).read_text(encoding="utf-8")), name


@every_page
def test_python_uses_public_names(page: Path) -> None:
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module == "picert":
                    assert {alias.name for alias in node.names} <= set(picert.__all__)


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(LINK.findall(index))


def _succeed(flags: object) -> int:
    return 0
