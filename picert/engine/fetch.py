"""Fetch: brings what is wanted of a step's logits from the device to the host.

That is the logits themselves, or the tokens that the device draws from them, or some of each. It
owns the host's memory for both; the step before must have been waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from picert.engine.draws import NUM_COLUMNS, Drawn, Draws, StepOutput
from picert.engine.runner import PendingStep
from picert.engine.streams import HostMemory, Mark, Stream
from picert.kernels.ops import Ops, SamplingRows

IntArray = NDArray[np.intp]
DeviceLogits = Callable[[], Tensor]  # [L, V]; asked for once the stream has come to it
_ALIGNMENT = 32  # values: 128 bytes, more than any kernel asks of a pointer


class Fetch:
    """Of one device. One step at a time."""

    def __init__(self, ops: Ops, stream: Stream, device: torch.device, vocab_size: int) -> None:
        self._ops, self._stream, self._device = ops, stream, device
        self._vocab_size = vocab_size
        self._logits = HostMemory(stream, torch.float32, vocab_size)
        self._columns = HostMemory(stream, torch.int32)
        self._drawn = HostMemory(stream, torch.int32)

    def start(self, logits: DeviceLogits, num_logits: int, draws: Draws | None) -> PendingStep:
        """Submit it all behind the step. What comes back waits."""
        if num_logits == 0:  # nobody waits: the next step can be scheduled while this one runs
            return partial(StepOutput, self._logits.rows(0).numpy())
        if draws is not None and draws.is_drawn.any():
            output = self._start_draws(logits, draws, draws.host_rows(num_logits))
        else:
            out = self._logits.rows(num_logits)
            self._stream.submit(lambda: out.copy_(logits(), non_blocking=True))
            output = StepOutput(out.numpy())
        return partial(_waited_for, self._stream.mark(), output)

    def _start_draws(self, logits: DeviceLogits, draws: Draws, host_rows: IntArray) -> StepOutput:
        num_rows = len(draws.states)
        rows, wanted = self._send(draws, host_rows)
        others = self._logits.rows(len(host_rows))
        token_ids, bits = self._drawn.rows(2 * num_rows).view(2, num_rows)
        logprobs = bits.view(torch.float32)

        @torch.inference_mode()  # as the logits were made
        def draw() -> None:
            found = logits()
            found[:, draws.vocab_size :] = float("-inf")  # nothing that the tokenizer does not know
            drawn_ids, drawn_logprobs = self._ops.sample(found[:num_rows], rows)
            token_ids.copy_(drawn_ids, non_blocking=True)
            logprobs.copy_(drawn_logprobs, non_blocking=True)
            if len(others):
                others.copy_(found.index_select(0, wanted), non_blocking=True)

        self._stream.submit(draw)
        return StepOutput(others.numpy(), Drawn(token_ids.numpy(), logprobs.numpy()))

    def _send(self, draws: Draws, host_rows: IntArray) -> tuple[SamplingRows, Tensor]:
        """On the device, in one copy: how to draw, and which rows [M] the host wants.

        The network is running already, so this costs no time of the device.
        """
        num_rows = len(draws.states)
        room = -(-num_rows // _ALIGNMENT) * _ALIGNMENT
        num_columns = NUM_COLUMNS * room
        source = self._columns.rows(num_columns + len(host_rows)).view(-1)
        values = source.numpy()
        draws.write(values[:num_columns].reshape(NUM_COLUMNS, room)[:, :num_rows])
        values[num_columns:] = host_rows
        to = torch.empty(len(source), dtype=torch.int32, device=self._device)
        self._stream.submit(lambda: to.copy_(source, non_blocking=True))
        columns = to[:num_columns].view(NUM_COLUMNS, room)[:, :num_rows]
        temperature, top_k, top_p, min_p, uniform = columns
        rows = SamplingRows(
            temperature=temperature.view(torch.float32),
            top_k=top_k,
            top_p=top_p.view(torch.float32),
            min_p=min_p.view(torch.float32),
            uniform=uniform.view(torch.float32),
        )
        return rows, to[num_columns:]


def _waited_for(mark: Mark, output: StepOutput) -> StepOutput:
    mark.synchronize()
    return output
