"""CudaStream without a GPU: the calls that it makes and their order, on a device of names alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from picert.engine.streams import CudaStream

POOL = (0, 1)


class Device:
    """Stands where torch.cuda does and notes what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._current = _Queue("current", self.calls)

    def graph_pool_handle(self) -> tuple[int, int]:
        return POOL

    def current_stream(self) -> _Queue:
        return self._current

    def empty_cache(self) -> None:
        self.calls.append("empty cache")

    def mem_get_info(self) -> tuple[int, int]:
        return (90 if "empty cache" in self.calls else 50), 100

    def Stream(self) -> _Queue:
        return _Queue("aside", self.calls)

    def CUDAGraph(self) -> _Graph:
        return _Graph(self.calls)

    def Event(self) -> _Event:
        return _Event(self.calls)

    @contextmanager
    def stream(self, queue: _Queue) -> Iterator[None]:
        self.calls.append(f"on {queue.name}")
        yield
        self.calls.append(f"off {queue.name}")

    @contextmanager
    def graph(self, _: _Graph, *, pool: tuple[int, int], capture_error_mode: str) -> Iterator[None]:
        assert pool == POOL
        self.calls.append(f"capture, {capture_error_mode}")
        yield
        self.calls.append("captured")


class _Queue:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self._calls = name, calls

    def wait_stream(self, other: _Queue) -> None:
        self._calls.append(f"{self.name} waits for {other.name}")


class _Graph:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def replay(self) -> None:
        self._calls.append("replay")


class _Event:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def record(self) -> None:
        self._calls.append("record")

    def synchronize(self) -> None:
        self._calls.append("synchronize")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(torch, "cuda", found)
    return found


def test_work_runs_aside_before_it_is_captured(device: Device) -> None:
    """There it compiles kernels and makes workspaces, which a capture forbids."""
    replay = CudaStream().capture(lambda: device.calls.append("work"))
    assert device.calls == [
        *("aside waits for current", "on aside", "work", "off aside", "current waits for aside"),
        *("capture, thread_local", "work", "captured"),
    ]
    device.calls.clear()
    replay()
    assert device.calls == ["replay"]


def test_submitted_work_is_launched_at_once_and_waited_for_at_a_mark(device: Device) -> None:
    stream = CudaStream()
    stream.submit(lambda: device.calls.append("work"))
    mark = stream.mark()
    stream.submit(lambda: device.calls.append("later"))
    assert device.calls == ["work", "record", "later"]
    mark.synchronize()
    assert device.calls[-1] == "synchronize"


@pytest.mark.usefixtures("device")
def test_memory_that_a_device_copies_from_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """From other memory the driver copies while the host waits."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "empty", lambda *shape, **how: asked.append({"n": shape, **how}))
    CudaStream().host_memory(7, torch.int32)
    assert asked == [{"n": (7,), "dtype": torch.int32, "pin_memory": True}]


@pytest.mark.usefixtures("device")
def test_what_loading_leaves_behind_counts_as_free() -> None:
    assert CudaStream().free_bytes() == 90
