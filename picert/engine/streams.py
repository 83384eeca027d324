"""Streams: how a runner hands work to a device and learns that it is done.

Work runs in the order in which it was submitted, at any time until somebody waits for a mark that
was set after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], object]


class Mark(Protocol):
    """A place in a stream."""

    def synchronize(self) -> None:
        """Wait until all work that was submitted before it is done."""
        ...


class Stream(Protocol):
    """A device's queue of work. One thread at a time."""

    def host_memory(self, num_values: int, dtype: torch.dtype) -> Tensor:
        """[num_values] that the device can copy to and from while the host does something else."""
        ...

    def submit(self, work: Work) -> None:
        """Have it done after all work before it."""
        ...

    def mark(self) -> Mark:
        """A mark after all work so far."""
        ...

    def capture(self, work: Work) -> Work:
        """`work`, which only launches on the device, as one launch; it is run once on the way."""
        ...

    def free_bytes(self) -> int | None:
        """Memory that the device has left; None where it is the host's."""
        ...


class HostStream:
    """The host as a device: work is put off until somebody waits for it, as a GPU might.

    So whatever a runner gets wrong about the order of things goes wrong without a GPU too.
    """

    def __init__(self) -> None:
        self._queue: deque[Work] = deque()
        self._num_submitted = 0
        self._num_done = 0

    def host_memory(self, num_values: int, dtype: torch.dtype) -> Tensor:
        """Plain memory."""
        return torch.empty(num_values, dtype=dtype)

    def submit(self, work: Work) -> None:
        """Put it at the end of the queue."""
        self._queue.append(work)
        self._num_submitted += 1

    def mark(self) -> Mark:
        """One whose wait does the work up to it."""
        return _HostMark(self.finish, self._num_submitted)

    def finish(self, num_works: int) -> None:
        """Do the first so many works of all, as far as they are not done."""
        while self._num_done < num_works:
            self._num_done += 1
            self._queue.popleft()()

    def capture(self, work: Work) -> Work:
        """The work itself."""
        self.finish(self._num_submitted)
        work()
        return work

    def free_bytes(self) -> int | None:
        """The host's own."""
        return None


class HostMemory:
    """Memory of the host for a device, in rows, that grows and is used again."""

    def __init__(self, stream: Stream, dtype: torch.dtype, width: int = 1) -> None:
        self._stream, self._dtype, self._width = stream, dtype, width
        self._memory = stream.host_memory(0, dtype)

    def rows(self, num_rows: int) -> Tensor:
        """[num_rows, width], with what was last written there."""
        if len(self._memory) < num_rows * self._width:
            room = 1 << (num_rows - 1).bit_length()
            self._memory = self._stream.host_memory(room * self._width, self._dtype)
        return self._memory[: num_rows * self._width].view(num_rows, self._width)


@dataclass(frozen=True, slots=True)
class _HostMark:
    finish: Callable[[int], None]
    num_works: int

    def synchronize(self) -> None:
        """Do what is left."""
        self.finish(self.num_works)


class CudaStream:
    """The current stream of a GPU."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()  # memory that all captured steps share

    def host_memory(self, num_values: int, dtype: torch.dtype) -> Tensor:
        """Pinned memory, else a copy would wait for the device."""
        return torch.empty(num_values, dtype=dtype, pin_memory=True)

    def submit(self, work: Work) -> None:
        """Launch it."""
        work()

    def mark(self) -> Mark:
        """An event."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def capture(self, work: Work) -> Work:
        """A CUDA graph.

        The run before it compiles kernels and makes the libraries' workspaces, on a stream of its
        own; neither may happen within a capture.
        """
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # What threads of other engines do meanwhile is no part of it, and no reason to give up.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def free_bytes(self) -> int | None:
        """Of the GPU; what torch keeps of tensors that are gone is given back first."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        return int(free)
