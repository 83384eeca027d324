"""Each mode is flags that picert-cloud knows."""

from __future__ import annotations

import argparse

import pytest
from pice.modes import BASELINES, MODES, WITH, WITHOUT, flags_of, parse_modes

from picert.commands.flags import CLOUD_FLAGS, add_flags, cloud_config


@pytest.mark.parametrize("mode", MODES)
def test_mode_is_what_its_flags_make_of_the_policy(mode: str) -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser, CLOUD_FLAGS)
    policy = cloud_config(parser.parse_args(["--model", "m", *flags_of(mode)])).policy
    assert policy.mode == mode.partition("_no_")[0].partition("_with_")[0]
    assert (policy.w_cloud_check > 0) == (mode == "pice_with_cloud_check")
    off = [part for part in WITHOUT if not getattr(policy, part.removeprefix("pice_no_"))]
    assert off == ([mode] if mode in WITHOUT else [])


def test_sets_of_modes_have_names() -> None:
    assert parse_modes("baselines") == (*BASELINES, "pice")
    assert parse_modes("pice,ablations") == ("pice", *WITHOUT, *WITH)
    assert {"direct", "edge_only", "router", "sot", "static"} == set(BASELINES)


@pytest.mark.parametrize("text", ["", "pice_no_brain", "direct,guess"])
def test_unknown_mode_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"is unknown: choose of baselines"):
        parse_modes(text)
