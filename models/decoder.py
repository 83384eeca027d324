"""Decoder: the readable definition of every supported network, over `Ops` and a paged KV cache.

One dense decoder; what architectures differ in is data in ModelConfig. It owns its weights, under
the canonical names of `weights`, and nothing else: caches and batches are passed in.

Letters as in `kernels.ops`, and V vocabulary, L rows whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from picert.kernels.ops import AttentionMeta, Ops, Weight
from picert.kernels.quant_weight import QuantWeight
from picert.models.config import ModelConfig
from picert.models.quant_codes import Quantization, packed
from picert.models.rope_table import inv_freq
from picert.models.weights import Checkpoint, RawTensor, dequantize

KvCache = tuple[Tensor, Tensor]  # keys and values of one layer, each [N, B, G, D]
Frequencies = tuple[Tensor, float]  # [D/2] fp32, and a factor on cos and sin
CosSin = tuple[Tensor, Tensor]  # [T, D/2] each, fp32


def load_decoder(
    checkpoint: Checkpoint,
    ops: Ops,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: Quantization = "none",
) -> Decoder:
    """A decoder with the checkpoint's weights on `device`, dequantised to `dtype` or packed.

    Raises ModelError for a matrix that cannot be packed as asked.
    """
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config, ops)
    plain: dict[str, Tensor] = {}
    for name, tensor in checkpoint.tensors.items():
        weight = packed(name, tensor, quantization, device)
        if weight is None:
            plain[name] = to_torch(tensor, device=device, dtype=dtype)
        else:
            linear = decoder.get_submodule(name.removesuffix(".weight"))
            assert isinstance(linear, Linear)
            linear.pack(weight)
    decoder.load_state_dict(plain, assign=True)
    decoder.frequencies = _frequencies(checkpoint.config, device)
    return decoder.requires_grad_(False).eval()


def to_torch(tensor: RawTensor, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values as a torch tensor [*shape] of its own memory."""
    return torch.tensor(dequantize(tensor), dtype=dtype, device=device)


class Norm(nn.Module):
    """RMS norm over the last axis; holds the weight."""

    def __init__(self, size: int, eps: float, ops: Ops) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self._eps = eps
        self._ops = ops

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> the same shape."""
        return self._ops.rms_norm(x, self.weight, self._eps)

    def add(self, x: Tensor, delta: Tensor | None) -> tuple[Tensor, Tensor]:
        """(x + delta, its norm), all [T, size]; None adds nothing."""
        if delta is None:
            return x, self(x)
        return self._ops.add_rms_norm(x, delta, self.weight, self._eps)


class Linear(nn.Module):
    """x @ weight^T + bias; holds both."""

    def __init__(self, inputs: int, outputs: int, ops: Ops, *, bias: bool = False) -> None:
        super().__init__()
        self.weight: Weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self._ops = ops

    @property
    def num_bytes(self) -> int:
        """Of the weight."""
        weight = self.weight
        return weight.num_bytes if isinstance(weight, QuantWeight) else weight.nbytes

    def pack(self, weight: QuantWeight) -> None:
        """Take packed codes in place of the parameter."""
        del self.weight  # nn.Module lets a parameter be replaced by its like only
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """[T, inputs] -> [T, outputs]."""
        return self._ops.linear(x, self.weight, self.bias)


class Layer(nn.Module):
    """Attention and gated ffn, each with its norms and residual."""

    def __init__(self, config: ModelConfig, index: int, ops: Ops) -> None:
        super().__init__()
        self._config = config
        self._window = config.window_of(index)
        self._ops = ops
        hidden, eps = config.hidden_size, config.rms_norm_eps
        q_size, kv_size = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
        self.attn_norm = Norm(hidden, eps, ops)
        self.q = Linear(hidden, q_size, ops, bias=config.qkv_bias)
        self.k = Linear(hidden, kv_size, ops, bias=config.qkv_bias)
        self.v = Linear(hidden, kv_size, ops, bias=config.qkv_bias)
        self.o = Linear(q_size, hidden, ops)
        self.ffn_norm = Norm(hidden, eps, ops)
        self.gate = Linear(hidden, config.intermediate_size, ops)
        self.up = Linear(hidden, config.intermediate_size, ops)
        self.down = Linear(config.intermediate_size, hidden, ops)
        if config.qk_norm:
            self.q_norm = Norm(config.head_dim, eps, ops)
            self.k_norm = Norm(config.head_dim, eps, ops)
        if config.post_norms:
            self.post_attn_norm = Norm(hidden, eps, ops)
            self.post_ffn_norm = Norm(hidden, eps, ops)

    def forward(
        self, x: Tensor, delta: Tensor | None, cos_sin: CosSin, meta: AttentionMeta, cache: KvCache
    ) -> tuple[Tensor, Tensor]:
        """The layer's input is x + delta, [T, E] each, and so is its output.

        The sum is left to the norm that comes next. Writes the step's keys and values into `cache`.
        """
        x, normed = self.attn_norm.add(x, delta)
        attended = self._attend(normed, cos_sin, meta, cache)
        if self._config.post_norms:
            attended = self.post_attn_norm(attended)
        x, normed = self.ffn_norm.add(x, attended)
        expanded = self._feed_forward(normed)
        if self._config.post_norms:
            expanded = self.post_ffn_norm(expanded)
        return x, expanded

    def _attend(self, x: Tensor, cos_sin: CosSin, meta: AttentionMeta, cache: KvCache) -> Tensor:
        config, ops = self._config, self._ops
        q = self.q(x).view(-1, config.num_heads, config.head_dim)
        k = self.k(x).view(-1, config.num_kv_heads, config.head_dim)
        v = self.v(x).view(-1, config.num_kv_heads, config.head_dim)
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        ops.rope_inplace(q, k, *cos_sin)
        ops.store_kv_inplace(k, v, *cache, meta.slot_mapping)
        attended = ops.attention(
            q,
            *cache,
            meta,
            scale=config.softmax_scale,
            sliding_window=self._window,
            soft_cap=config.attn_soft_cap,
        )
        out: Tensor = self.o(attended.flatten(1))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        is_silu = self._config.activation == "silu"
        gated = self._ops.silu_mul if is_silu else self._ops.gelu_mul
        out: Tensor = self.down(gated(self.gate(x), self.up(x)))
        return out


class Decoder(nn.Module):
    """Tokens in, logits out. Stateless between calls apart from what it writes into the caches."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.config = config
        self._ops = ops
        self.embed = Linear(config.hidden_size, config.vocab_size, ops)
        self.layers = nn.ModuleList(Layer(config, i, ops) for i in range(config.num_layers))
        self.final_norm = Norm(config.hidden_size, config.rms_norm_eps, ops)
        if not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, ops)
        # Everywhere and in sliding layers. On the device from the start: a step copies nothing
        # there, which a captured one could not.
        self.frequencies: tuple[Frequencies, Frequencies]

    @property
    def matrix_bytes(self) -> int:
        """Of the matrices that a step reads: the embedding only where it makes the logits too."""
        linears = [module for module in self.modules() if isinstance(module, Linear)]
        is_read = self.config.tie_embeddings
        return sum(x.num_bytes for x in linears if is_read or x is not self.embed)

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        meta: AttentionMeta,
        caches: Sequence[KvCache],
        logits_indices: Tensor,
    ) -> Tensor:
        """One step: token_ids, positions [T], one cache per layer -> logits [L, V] in fp32.

        Logits only of the rows `logits_indices` [L]; keys and values of all rows go into `caches`.
        """
        x = self._ops.embed(token_ids, self.embed.weight, self.final_norm.weight.dtype)
        x = x * self.config.embed_scale
        everywhere, local = (_cos_sin(positions, *of_kind) for of_kind in self.frequencies)
        delta: Tensor | None = None
        for index, layer in enumerate(self.layers):
            cos_sin = local if self.config.is_sliding(index) else everywhere
            x, delta = layer(x, delta, cos_sin, meta, caches[index])
        assert delta is not None
        rows = logits_indices.long()
        return self._logits(x[rows] + delta[rows])

    def _logits(self, x: Tensor) -> Tensor:
        head = self.embed if self.config.tie_embeddings else self.lm_head
        logits: Tensor = head(self.final_norm(x)).float()
        cap = self.config.logit_soft_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)


def _frequencies(config: ModelConfig, device: torch.device) -> tuple[Frequencies, Frequencies]:
    """Of all layers, and of those that slide."""
    tables = (inv_freq(config, local=local) for local in (False, True))
    everywhere, local = ((torch.tensor(t, device=device), factor) for t, factor in tables)
    return everywhere, local


def _cos_sin(positions: Tensor, frequencies: Tensor, factor: float) -> CosSin:
    angles = positions[:, None].float() * frequencies
    return angles.cos() * factor, angles.sin() * factor
