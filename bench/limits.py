"""What the machine would allow in a case: bytes over bandwidth, multiply-accumulates over the peak.

Attention's own arithmetic is in fp32 and is not counted; K and V are counted as fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from cases import Case


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step of a case (a prefill is one step)."""

    num_tokens: int  # that the rate counts
    num_bytes: int
    num_macs: int

    @classmethod
    def of(cls, case: Case, work: Mapping[str, int], weight_bytes: int) -> Cost:
        """`work` as engines/work.py gives it; `weight_bytes` in the engine's own layout."""
        if case.kind == "prefill":
            macs = case.context_len * work["body_macs"] + work["head_macs"]
            return cls(case.context_len, weight_bytes, macs)
        # A prefix that all share has to be read once.
        kv_tokens = case.shared_len + case.num_seqs * case.own_len
        return cls(
            num_tokens=case.num_seqs,
            num_bytes=weight_bytes + kv_tokens * work["kv_bytes_per_token"],
            num_macs=case.num_seqs * (work["body_macs"] + work["head_macs"]),
        )


@dataclass(slots=True)
class MachineRates:
    """Measurements of one case's rounds."""

    arithmetic: str  # of the peak: "int8" on a CPU, "tensor" on a GPU
    gb_per_s: list[float] = field(default_factory=list)
    gmac_per_s: list[float] = field(default_factory=list)

    def row(self, cost: Cost, tok_per_s: float) -> dict[str, object]:
        """Which limit binds at `cost`, and the share of it that `tok_per_s` is."""
        if not self.gb_per_s:
            return {}
        gb_per_s, gmac_per_s = median(self.gb_per_s), median(self.gmac_per_s)
        memory_s = cost.num_bytes / (gb_per_s * 1e9)
        peak_s = cost.num_macs / (gmac_per_s * 1e9)
        limit = cost.num_tokens / max(memory_s, peak_s)
        return {
            "share_of_limit": round(tok_per_s / limit, 3),
            "limit": "memory" if memory_s >= peak_s else self.arithmetic,
            "limit_tok_per_s": round(limit, 1),
            "memory_share": round(tok_per_s * memory_s / cost.num_tokens, 3),
            f"{self.arithmetic}_share": round(tok_per_s * peak_s / cost.num_tokens, 3),
            "read_gb_per_s": round(gb_per_s, 1),
            f"{self.arithmetic}_gmac_per_s": round(gmac_per_s, 1),
        }
