"""A served cloud for other people's clients: real engine and front door, tiny random model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from served import served
from tiny_cloud import tiny_app, tiny_engine


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where it is served; its one model is `tiny`."""
    engine = tiny_engine(tmp_path_factory.mktemp("model"))
    with served(partial(tiny_app, engine)) as at:
        yield at
