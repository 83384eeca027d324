"""What is under deploy/ fits the program: config files parse, alarms ask for what is measured,
units start what there is."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from picert.commands.flags import CLOUD_FLAGS, EDGE_FLAGS, add_flags, cloud_config, edge_config
from picert.config import CloudConfig, EdgeConfig

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def flags(*argv: str, known: tuple = CLOUD_FLAGS) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    add_flags(parser, known)
    return parser.parse_args(argv)


def test_cloud_file_is_a_config() -> None:
    config = cloud_config(flags("--config", str(DEPLOY / "cloud.toml")))
    assert isinstance(config, CloudConfig)
    assert config.link.link_key == "/etc/picert/cloud.key"


def test_edge_file_is_a_config() -> None:
    given = flags("--config", str(DEPLOY / "edge.toml"), known=EDGE_FLAGS)
    config = edge_config(given, default_name=lambda: "never")
    assert isinstance(config, EdgeConfig)
    assert config.name == "kitchen"


@pytest.mark.parametrize("kind", ["cloud", "edge"])
def test_unit_gives_more_time_to_stop_than_the_program_takes(kind: str) -> None:
    unit = (DEPLOY / "systemd" / f"picert-{kind}.service").read_text()
    assert f"/picert-{kind} --config /etc/picert/{kind}.toml" in unit
    (patience,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    (needed,) = re.findall(
        r"^shutdown-timeout = (\d+)$", (DEPLOY / f"{kind}.toml").read_text(), re.M
    )
    assert int(patience) > int(needed) + 10


def test_alarms_are_explained_and_ask_for_what_is_measured() -> None:
    rules = (DEPLOY / "alerts.yml").read_text()
    page = (ROOT / "docs" / "operations.md").read_text()
    alarms = re.findall(r"alert: (\w+)", rules)
    assert alarms
    assert not [alarm for alarm in alarms if f"`{alarm}`" not in page]
    code = "".join(f.read_text() for f in (ROOT / "picert").rglob("*metrics.py"))
    for name in set(re.findall(r"picert_(\w+)", rules)):
        stem = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert f'"{stem}"' in code, name
