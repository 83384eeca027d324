"""TorchRunner: models/decoder.py over torch operations, on any device.

It, fetch.py and streams.py are the only modules of the engine that import torch; runner.py loads it
where it is wanted.

A step's arrays are written into memory that the device copies from by itself, the network follows,
then what is wanted of the logits comes back; the host waits only where something is, and may launch
another step before it does. A decode step on a GPU is one launch of a captured graph, filled up to
the graph's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from math import prod

import numpy as np
import torch
from torch import Tensor

from picert.config import EngineConfig
from picert.engine.batch import StepBatch
from picert.engine.decode_graphs import DecodeGraphs, DecodeShape
from picert.engine.draws import Draws
from picert.engine.fetch import DeviceLogits, Fetch
from picert.engine.machine import available_memory
from picert.engine.runner import PendingStep, identity_of, kv_values_per_token
from picert.engine.step_layout import StepLayout, layout_of, padded, padding
from picert.engine.streams import CudaStream, HostMemory, HostStream, Mark, Stream, Work
from picert.errors import ConfigError
from picert.kernels.launch_table import TABLE
from picert.kernels.ops import AttentionMeta, Ops
from picert.kernels.shared_prefix import Bounds, SharedPrefixes, find_shared_prefixes
from picert.kernels.torch_ops import TorchOps
from picert.models.decoder import load_decoder
from picert.models.quant_codes import Quantization
from picert.models.weights import Checkpoint

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a decoder runs and how its weights lie there."""

    device: torch.device
    dtype: torch.dtype  # of arithmetic, of K and V, and of weights that are not packed
    quantization: Quantization = "none"
    has_graphs: bool = False  # decode steps are captured; `ops` must only launch
    finds_shared: bool = False  # `ops` reads shared_prefixes of AttentionMeta
    draws: bool = False  # tokens are drawn on the device, by `ops`


@dataclass(frozen=True, slots=True)
class _Spans:
    """What the host knows of AttentionMeta."""

    max_query_len: int
    max_context_len: int
    num_decodes: int
    shared: Bounds | None

    @classmethod
    def of(cls, batch: StepBatch, shared: SharedPrefixes | None) -> _Spans:
        """Of a step whose decodes share that."""
        return cls(
            max_query_len=int(np.diff(batch.query_start).max()),
            max_context_len=int(batch.context_lens.max()),
            num_decodes=_num_decodes(batch),
            shared=None if shared is None else shared.bounds,
        )


@dataclass(frozen=True, slots=True)
class _DecodeGraph:
    """A captured decode step."""

    layout: StepLayout
    inputs: Tensor  # [layout.num_values] int32, on the device
    logits: Tensor  # [num_seqs, V] fp32
    replay: Work


@dataclass(slots=True)
class _Staging:
    """Memory of the host that a device copies from."""

    memory: HostMemory
    copied: Mark  # after the copy that was last made from it


class TorchRunner:
    """The decoder of models/decoder.py over `ops`."""

    team = None  # torch has its own

    def __init__(
        self, checkpoint: Checkpoint, ops: Ops, placement: Placement, stream: Stream
    ) -> None:
        """Load the weights. Raises ModelError."""
        self.identity = identity_of(checkpoint)
        self.config = checkpoint.config
        self._placement, self._stream = placement, stream
        self._decoder = load_decoder(
            checkpoint,
            ops,
            device=placement.device,
            dtype=placement.dtype,
            quantization=placement.quantization,
        )
        self._caches: list[tuple[Tensor, Tensor]] = []
        self._block_size = 1
        self._graphs = DecodeGraphs(self._capture, max_context_len=0)
        # In turns: one is written while the device may still copy from the other.
        self._staging = [_Staging(HostMemory(stream, torch.int32), stream.mark()) for _ in range(2)]
        self._ops = ops
        self._fetch = self._new_fetch(max_draws=0)
        # Of all graphs: a step's logits are drawn from and copied away before the next step runs.
        self._graph_logits = torch.empty((0, self.config.vocab_size), device=placement.device)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token in all layers."""
        return self._placement.dtype.itemsize * kv_values_per_token(self.config)

    @property
    def can_draw(self) -> bool:
        """As its placement says."""
        return self._placement.draws

    @property
    def matrix_bytes(self) -> int:
        """Of the matrices that a step reads: the embedding only where it makes the logits too."""
        return self._decoder.matrix_bytes

    def available_bytes(self) -> int:
        """Of the device."""
        free = self._stream.free_bytes()
        return available_memory() if free is None else free

    @property
    def has_own_memory(self) -> bool:
        """As its device says."""
        return self._stream.free_bytes() is not None

    def allocate_kv(self, num_blocks: int, block_size: int) -> None:
        """Make the K/V memory: per layer two of [N, B, G, D]."""
        shape = (num_blocks, block_size, self.config.num_kv_heads, self.config.head_dim)
        self._graphs.clear()

        def cache() -> Tensor:
            return torch.zeros(shape, dtype=self._placement.dtype, device=self._placement.device)

        self._caches = [(cache(), cache()) for _ in range(self.config.num_layers)]
        # Each sequence with a row to draw from has written its last token to a block of its own.
        self._fetch = self._new_fetch(max_draws=num_blocks)
        self._block_size = block_size
        most = min(num_blocks * block_size, self.config.max_position)
        self._graphs = DecodeGraphs(self._capture, max_context_len=most)

    def launch(self, batch: StepBatch, draws: Draws | None = None) -> PendingStep:
        """Begin a step. Its output lies in memory that the step after the next overwrites."""
        num_logits = len(batch.logits_indices)
        shared = self._shared_prefixes(batch) if self._placement.finds_shared else None
        spans = _Spans.of(batch, shared)
        shape = None
        if self._placement.has_graphs and spans.num_decodes == batch.num_seqs == num_logits:
            lengths = batch.num_seqs, spans.max_context_len
            shape = self._graphs.shape_for(*lengths, spans.shared)
        if shape is None:
            logits = self._launch_plain(batch, shared, spans)
        else:
            logits = self._launch_graph(batch, shared, self._graphs.graph(shape))
        return self._fetch.start(logits, num_logits, draws)

    def close(self) -> None:
        """Free weights and K/V."""
        self._stream.mark().synchronize()
        self._graphs.clear()
        self._caches = []
        del self._decoder

    def _shared_prefixes(self, batch: StepBatch) -> SharedPrefixes | None:
        """What the sequences that decode begin with in common."""
        count = _num_decodes(batch)
        return find_shared_prefixes(
            batch.block_tables[:count], batch.context_lens[:count], self._block_size
        )

    def _launch_plain(
        self, batch: StepBatch, shared: SharedPrefixes | None, spans: _Spans
    ) -> DeviceLogits:
        layout = layout_of(batch, shared, self._block_size)
        inputs = self._device_memory(layout)
        self._send(batch, shared, layout, inputs)
        made: list[Tensor] = []
        self._stream.submit(lambda: made.append(self._forward(layout, inputs, spans)))
        return made.pop

    def _launch_graph(
        self, batch: StepBatch, shared: SharedPrefixes | None, graph: _DecodeGraph
    ) -> DeviceLogits:
        full = padded(batch, graph.layout.num_seqs)
        self._send(full, shared, graph.layout, graph.inputs)
        self._stream.submit(graph.replay)
        num_seqs = batch.num_seqs
        return lambda: graph.logits[:num_seqs]

    def _capture(self, shape: DecodeShape) -> _DecodeGraph:
        """A decode step of sequences that are not there, until others are put in their place."""
        num_seqs = shape.num_seqs
        layout = StepLayout(
            num_tokens=num_seqs,
            num_seqs=num_seqs,
            num_logits=num_seqs,
            table_len=-(-shape.context_len // self._block_size),
            num_runs=0 if shape.shared is None else shape.shared.num_runs,
            num_members=0 if shape.shared is None else shape.shared.num_members,
        )
        spans = _Spans(1, shape.context_len, num_seqs, shape.shared)
        inputs = self._device_memory(layout)
        self._send(padding(num_seqs), None, layout, inputs)
        if len(self._graph_logits) < num_seqs:
            self._graph_logits = torch.empty(
                (num_seqs, self.config.vocab_size), device=self._placement.device
            )
        logits = self._graph_logits[:num_seqs]
        replay = self._stream.capture(lambda: logits.copy_(self._forward(layout, inputs, spans)))
        return _DecodeGraph(layout, inputs, logits, replay)

    def _forward(self, layout: StepLayout, inputs: Tensor, spans: _Spans) -> Tensor:
        """Logits [L, V] of the step whose arrays lie in `inputs`."""
        arrays = {
            name: inputs[at : at + prod(shape)].view(shape)
            for name, (at, shape) in layout.places().items()
        }
        shared = None
        if spans.shared is not None:
            shared = SharedPrefixes(
                runs=arrays["runs"],
                members=arrays["members"],
                covered=arrays["covered"],
                bounds=spans.shared,
            )
        meta = AttentionMeta(
            slot_mapping=arrays["slot_mapping"],
            query_start=arrays["query_start"],
            context_lens=arrays["context_lens"],
            block_tables=arrays["block_tables"],
            max_query_len=spans.max_query_len,
            max_context_len=spans.max_context_len,
            num_decodes=spans.num_decodes,
            shared_prefixes=shared,
        )
        token_ids = arrays["token_ids"]
        logits: Tensor = self._decoder(
            self._fetch.known(token_ids) if self._placement.draws else token_ids,
            arrays["positions"],
            meta,
            self._caches,
            arrays["logits_indices"],
        )
        return logits

    def _send(
        self, batch: StepBatch, shared: SharedPrefixes | None, layout: StepLayout, to: Tensor
    ) -> None:
        """Copy the step's arrays to the device, without waiting for it."""
        staging = self._staging[0]
        self._staging.reverse()
        staging.copied.synchronize()
        source = staging.memory.rows(layout.num_values).view(-1)
        layout.write(batch, shared, source.numpy())
        self._stream.submit(lambda: to.copy_(source, non_blocking=True))
        staging.copied = self._stream.mark()

    def _new_fetch(self, max_draws: int) -> Fetch:
        stream, device = self._stream, self._placement.device
        return Fetch(self._ops, stream, device, self.config.vocab_size, max_draws=max_draws)

    def _device_memory(self, layout: StepLayout) -> Tensor:
        return torch.empty(layout.num_values, dtype=torch.int32, device=self._placement.device)


def _num_decodes(batch: StepBatch) -> int:
    """Sequences at the front that have one token in the step."""
    longer = np.flatnonzero(np.diff(batch.query_start) > 1)
    return int(longer[0]) if len(longer) else batch.num_seqs


def load(checkpoint: Checkpoint, device: str, config: EngineConfig) -> TorchRunner:
    """On "cpu" or "cuda". A dtype of "auto" is float32 on a CPU and bfloat16 on a GPU.

    A GPU runs Triton kernels, in float32 plain torch. There "auto" quantisation keeps the file's;
    a CPU, which has no kernel for packed weights, dequantises. Raises ModelError, ConfigError.
    """
    default = torch.float32 if device == "cpu" else torch.bfloat16
    dtype = _DTYPES.get(config.dtype, default)
    on_cpu = device == "cpu"
    quantization = "none" if on_cpu and config.quantization == "auto" else config.quantization
    has_kernels = not on_cpu and dtype != torch.float32
    ops = _triton_ops(torch.cuda.get_device_name()) if has_kernels else TorchOps()
    placement = Placement(
        device=torch.device(device),
        dtype=dtype,
        quantization=quantization,
        has_graphs=config.cuda_graphs and ops.only_launches,
        finds_shared=has_kernels,
        draws=has_kernels,
    )
    return TorchRunner(checkpoint, ops, placement, HostStream() if on_cpu else CudaStream())


def _triton_ops(card: str) -> Ops:
    """Imported where a GPU is: triton is not made for all systems."""
    try:
        module = import_module("picert.kernels.triton_ops")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ConfigError(
            "a GPU needs the package triton, which is not installed: pip install 'picert[gpu]'",
            param="device",
        ) from None
    TABLE.check_device(card)
    ops: Ops = module.TritonOps()
    return ops


def has_cuda() -> bool:
    """Whether torch sees a CUDA device."""
    return torch.cuda.is_available()
