"""Fetch: brings what is wanted of a step's logits from the device to the host.

That is the logits themselves, or the tokens that the device draws from them, or some of each. It
owns the host's memory for both; the step before the last must have been waited for. The tokens stay
on the device, too: the next step may be launched before they are here.
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


class _HostSide:
    """The host's memory for one step."""

    def __init__(self, stream: Stream, vocab_size: int) -> None:
        self.logits = HostMemory(stream, torch.float32, vocab_size)
        self.columns = HostMemory(stream, torch.int32)
        self.drawn = HostMemory(stream, torch.int32)


class Fetch:
    """Of one device."""

    def __init__(
        self, ops: Ops, stream: Stream, device: torch.device, vocab_size: int, *, max_draws: int
    ) -> None:
        """At most `max_draws` rows of a step are drawn from."""
        self._ops, self._stream, self._device = ops, stream, device
        # In turns: what one holds is taken up while the device writes to the other.
        self._sides = [_HostSide(stream, vocab_size) for _ in range(2)]
        self._token_ids = torch.zeros(max_draws, dtype=torch.int32, device=device)  # drawn last

    def start(self, logits: DeviceLogits, num_logits: int, draws: Draws | None) -> PendingStep:
        """Submit it all behind the step. What comes back waits."""
        self._sides.reverse()
        if num_logits == 0:  # nobody waits: the next step can be scheduled while this one runs
            return partial(StepOutput, self._sides[0].logits.rows(0).numpy())
        if draws is not None and draws.is_drawn.any():
            output = self._start_draws(logits, draws, draws.host_rows(num_logits))
        else:
            out = self._sides[0].logits.rows(num_logits)
            self._stream.submit(lambda: out.copy_(logits(), non_blocking=True))
            output = StepOutput(out.numpy())
        return partial(_waited_for, self._stream.mark(), output)

    def known(self, token_ids: Tensor) -> Tensor:
        """On the device: token ids [T] in which the last step's draws are in place of -1 - row.

        Only launches, over memory that stays where it is, so it may be captured.
        """
        rows = (-1 - token_ids).clamp_(min=0)
        return torch.where(token_ids < 0, self._token_ids.index_select(0, rows), token_ids)

    def _start_draws(self, logits: DeviceLogits, draws: Draws, host_rows: IntArray) -> StepOutput:
        num_rows = len(draws.states)
        rows, wanted = self._send(draws, host_rows)
        others = self._sides[0].logits.rows(len(host_rows))
        token_ids, bits = self._sides[0].drawn.rows(2 * num_rows).view(2, num_rows)
        logprobs = bits.view(torch.float32)

        @torch.inference_mode()  # as the logits were made
        def draw() -> None:
            found = logits()
            found[:, draws.vocab_size :] = float("-inf")  # nothing that the tokenizer does not know
            drawn_ids, drawn_logprobs = self._ops.sample(found[:num_rows], rows)
            # Where there was none, -1, the text ends, but the next step may be launched by then: it
            # reads token 0 there, for nobody.
            self._token_ids[:num_rows].copy_(drawn_ids.clamp(min=0))
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
        source = self._sides[0].columns.rows(num_columns + len(host_rows)).view(-1)
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
