"""`picert keygen`, `picert edge` and `picert-edge doctor` as they are typed."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from picert.cli import edge_main, main


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller's shell names another file."""
    monkeypatch.delenv("PICERT_EDGES_FILE", raising=False)


def test_keygen_writes_a_secret_and_prints_what_edge_add_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keygen", str(tmp_path / "link.key")]) == 0
    public = capsys.readouterr().out.strip()
    assert (tmp_path / "link.key").stat().st_mode & 0o777 == 0o600
    assert public not in (tmp_path / "link.key").read_text()
    file = ["--edges-file", str(tmp_path / "edges")]
    assert main(["edge", "add", public, "--name", "kitchen", *file]) == 0
    assert main(["edge", "list", *file]) == 0
    assert capsys.readouterr().out == f"{public} kitchen\n"
    assert main(["edge", "remove", public, *file]) == 0
    assert main(["edge", "list", *file]) == 0
    assert capsys.readouterr().out == ""


def test_edges_are_kept_in_the_config_folder_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["edge", "add", "ab" * 32]) == 0
    assert (tmp_path / "picert" / "edges").read_text() == "ab" * 32 + "\n"


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["edge", "add"], "give the edge's public key"),
        (["edge", "add", "xyz"], "64 hex digits"),
        (["edge", "remove", "ab" * 32], "is not in"),
        (["edge", "drop", "ab" * 32], "invalid choice"),
        (["keygen", "."], "exists"),
    ],
)
def test_bad_key_command_is_one_line(
    argv: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert problem in err
    assert err.count("\n") == 1


def test_doctor_names_the_cause(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    assert edge_main(["doctor", "--cloud", f"tcp://127.0.0.1:{port}"]) == 1
    assert "address: " in capsys.readouterr().err
