"""Problem: one launch of a kernel with its inputs, its check and its rivals; and where inputs come
from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Of a result in that dtype against fp32 or fp64, as a share of the largest value: a few roundings.
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-4}


class NotTimed(Exception):
    """The launch is none that a runner would make; says why."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Fresh random tensors."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, seed: int) -> Draw:
        """The same seed, the same tensors."""
        return cls(device, dtype, torch.Generator(device).manual_seed(seed))

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal values."""
        return torch.randn(
            shape, generator=self.generator, device=self.device, dtype=dtype or self.dtype
        )

    def uniform(self, *shape: int) -> Tensor:
        """fp32 in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def permutation(self, count: int) -> Tensor:
        """Of 0 to count - 1, int32."""
        order = torch.randperm(count, generator=self.generator, device=self.device)
        return order.to(torch.int32)


@dataclass(frozen=True, slots=True)
class Problem:
    """`check` takes the kernel's result and gives (what is looked at, what it should be).

    A peer is made, over inputs in its own layout, when its turn comes.
    """

    run: Callable[[], Tensor]
    check: Callable[[Tensor], tuple[Tensor, Tensor]]
    peers: Mapping[str, Callable[[], Callable[[], object]]] = field(default_factory=dict)

    def error(self) -> str | None:
        """Run it once; what is wrong with the result, None if nothing is."""
        found, wanted = self.check(self.run())
        tolerance = TOLERANCE[found.dtype]
        found, wanted = found.double(), wanted.double()
        off = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
        # Written so that a NaN is wrong too.
        return None if off <= tolerance else f"off by {off:.2e} of the largest value"
