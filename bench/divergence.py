"""How far one set of logits is from another, in numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 32  # at once, in float64: 151,936 logits a row are 1.2 MB


def divergence(wanted: NDArray[np.float32], got: NDArray[np.float32]) -> dict[str, float]:
    """KL(wanted || got) of each row of logits [T, V] in nats: mean, 99th percentile and maximum.

    `top1` is the share of rows whose likeliest token is the same.
    """
    kl, same = [], []
    for first in range(0, len(wanted), _ROWS):
        p, q = (_log_softmax(x[first : first + _ROWS]) for x in (wanted, got))
        kl.append((np.exp(p) * (p - q)).sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    all_kl = np.concatenate(kl)
    return {
        "mean_kl": round(float(all_kl.mean()), 6),
        "p99_kl": round(float(np.percentile(all_kl, 99)), 6),
        "max_kl": round(float(all_kl.max()), 6),
        "top1": round(float(np.concatenate(same).mean()), 4),
    }


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return log_probs
