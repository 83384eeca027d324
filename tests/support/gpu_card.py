"""The card that tests marked `gpu` run on."""

from __future__ import annotations

import os

import pytest
import torch


def card() -> torch.device:
    """The GPU. Skips the test where kernels are interpreted; fails it where there is none."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels are interpreted in this session: run `pytest -m gpu`")
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device is visible: gpu tests need one")
    return torch.device("cuda")
