"""Expected quality of a plan as a share of a direct answer's: a prior, and what was learned of the
models that expand."""

from __future__ import annotations

from collections.abc import Collection

from picert.config import PolicyConfig
from picert.pice.router import QuestionClass

_MISFIT = 0.3  # of a direct answer's worth where points do not suit the question at all
_FEW_POINTS = 0.65  # lost, in the limit, by a sketch with fewer points than the answer has
_PRIOR_WORTH, _PRIOR_WEIGHT = 0.95, 10.0  # of an expansion, and in expansions
_SURE = 0.35  # confidence from which a candidate is as good as any
_STRICT: frozenset[QuestionClass] = frozenset({"coding", "math", "fermi"})
_STRICT_QUALITY = 0.9  # one wrong step spoils such an answer: no trade against load
_EASY_AT_EDGE, _HARD_AT_EDGE = 0.5, 0.2  # a small model's own answer


class QualityTable:
    """What an expansion is worth, per model, sketch level and question class; learned from the
    scores of the ensemble. Starts from one prior for all."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, float, QuestionClass], tuple[float, float]] = {}

    def observe(
        self, model: str, level: float, question_class: QuestionClass, score: float
    ) -> None:
        """One segment that `model` wrote was found to be worth `score`, 0 to 1."""
        key = (model, level, question_class)
        total, count = self._seen.get(key, (_PRIOR_WORTH * _PRIOR_WEIGHT, _PRIOR_WEIGHT))
        self._seen[key] = (total + min(1.0, max(0.0, score)), count + 1.0)

    def worth(self, models: Collection[str], level: float, question_class: QuestionClass) -> float:
        """Expected worth of one expansion by any of `models`."""
        if not models:
            return _PRIOR_WORTH
        cells = [self._seen.get((model, level, question_class)) for model in models]
        return sum(c[0] / c[1] if c else _PRIOR_WORTH for c in cells) / len(models)


def score_of(confidence: float) -> float:
    """What a chosen candidate counts for: nothing is better than sure."""
    return min(1.0, confidence / _SURE)


def sketch_quality(suitability: float, share_of_points: float, worth: float, width: int) -> float:
    """Of an answer in points: how well points suit the question, how many of the answer's points
    the sketch holds, and the chance that one of `width` candidates of each is good."""
    fit = suitability + (1.0 - suitability) * _MISFIT
    whole = 1.0 - _FEW_POINTS * (1.0 - min(1.0, share_of_points))
    return float(fit * whole * (1.0 - (1.0 - worth) ** width))


def edge_quality(is_easy: bool) -> float:
    """Of a small model's own answer. A prior: nothing here learns it yet."""
    return _EASY_AT_EDGE if is_easy else _HARD_AT_EDGE


def least_quality(question_class: QuestionClass, config: PolicyConfig) -> float:
    """What a plan for a question of this class must reach, whatever the load."""
    if question_class in _STRICT:
        return max(_STRICT_QUALITY, config.min_quality)
    return config.min_quality
