"""An edge without a name: the same one after a restart, another one beside a living edge."""

from __future__ import annotations

from pathlib import Path

import pytest

from picert.config import EdgeConfig, EngineConfig
from picert.edge.identity import Identity
from picert.errors import ConfigError


def test_name_is_the_same_after_a_restart(tmp_path: Path) -> None:
    with Identity(tmp_path) as first:
        name = first.name
    with Identity(tmp_path) as again:
        assert again.name == name


def test_two_edges_on_one_machine_have_names_of_their_own_and_keep_them(tmp_path: Path) -> None:
    with Identity(tmp_path) as one, Identity(tmp_path) as two:
        names = [one.name, two.name]
    with Identity(tmp_path) as one, Identity(tmp_path) as two:
        assert [one.name, two.name] == names
    assert len(set(names)) == 2


def test_file_that_was_damaged_gives_a_new_name(tmp_path: Path) -> None:
    (tmp_path / "edge-0").write_text("../../etc")
    with Identity(tmp_path, "host") as made:
        assert len(made.name) == len("host-") + 8


@pytest.mark.parametrize("host", ["a host with blanks", "h" * 300, "", "höst"])
def test_name_is_one_that_an_edge_may_have(tmp_path: Path, host: str) -> None:
    with Identity(tmp_path, host) as made:
        EdgeConfig(engines=(EngineConfig(model="m"),), name=made.name)


def test_folder_that_cannot_be_written_is_refused_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="give --name"):
        Identity(tmp_path / "file")
