"""The ways to serve one question, each predicted and priced, and the choice among them.

    choose  argmin (C * price + E * edge price + T * w_latency) / slo - Q * w_quality
    subject to  Q >= Q_min(class),  T <= T_direct + max(slo - T0_direct, slack * T0_direct)

T0_direct is a direct answer's time on an idle cloud, where the second constraint reads
T <= max(slo, T_direct * (1 + slack)). Told this way it does not become tighter while the cloud
fills, so that more backlog never means more cloud seconds for a question.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from picert.config import PolicyConfig
from picert.pice.length import TOKENS_PER_POINT, LengthForecast
from picert.pice.objective import (
    NEW_PROMPT_TOKENS,
    Candidate,
    Outlook,
    Scale,
)
from picert.pice.quality import QualityTable, edge_quality, least_quality, sketch_quality
from picert.pice.router import Suitability

LEVELS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)  # sketch tokens over answer tokens; a direct answer is 1
LINE_TOKENS = 9.0  # of a sketch line as models write it, with its number
MAX_WIDTH = 3  # candidates of a segment
_MIN_EXPANSION_TOKENS = 24.0
_EASY_TOKENS = 60  # an answer up to this long is short


@dataclass(frozen=True, slots=True)
class Question:
    """What the choice knows of a question."""

    suitability: Suitability
    length: LengthForecast  # already cut at the user's limit
    points: int | None = None  # that it asks for
    is_one_fact: bool = False

    @property
    def tokens(self) -> int:
        """Expected, of a direct answer."""
        return self.length.p50

    @property
    def num_points(self) -> int:
        """Of the whole answer."""
        return self.points or max(3, round(self.tokens / TOKENS_PER_POINT))


class Options:
    """All candidates for one question at one moment; `best` is the plan."""

    def __init__(
        self, question: Question, outlook: Outlook, config: PolicyConfig, quality: QualityTable
    ) -> None:
        self._question = question
        self._outlook = outlook
        self._config = config
        self._quality = quality
        idle_s = outlook.cloud.idle_seconds(outlook.prompt_tokens, question.tokens)
        slo_s = config.slo_s or idle_s
        price, edge_price = outlook.price, outlook.edge_price
        if not config.uses("price"):
            price = edge_price = 0.0
        self._scale = Scale(price, slo_s, config.w_latency, config.w_quality, edge_price)
        self._longest_s = outlook.direct_seconds(question.tokens) + max(
            slo_s - idle_s, config.slack * idle_s
        )

    @property
    def price(self) -> float:
        """Of a cloud second, as this choice counts it."""
        return self._scale.price

    @property
    def edge_price(self) -> float:
        """Of a second of all edges, as this choice counts it."""
        return self._scale.edge_price

    def direct(self) -> Candidate:
        """The cloud answers whole."""
        outlook, tokens = self._outlook, self._question.tokens
        taken = outlook.cloud.share_seconds(outlook.prompt_tokens, tokens)
        return self._priced(Candidate("direct", outlook.direct_seconds(tokens), taken, 1.0))

    def edge_only(self, against: str | None = None) -> Candidate:
        """A small model answers whole; `against` is what forbids it."""
        question, outlook = self._question, self._outlook
        is_easy = question.is_one_fact or question.tokens <= _EASY_TOKENS
        candidate = Candidate(
            route="edge_only",
            seconds=outlook.edge_only_seconds(question.tokens),
            cloud_seconds=0.0,
            quality=edge_quality(is_easy),
            against=against,
            edge_seconds=outlook.edge_share_s(outlook.prompt_tokens, question.tokens),
        )
        return self._priced(candidate)

    def sketches(self, against: str | None = None) -> list[Candidate]:
        """One for each level that makes a sketch of its own; `against` forbids them all."""
        found: dict[int, Candidate] = {}
        for level in LEVELS:
            num_points = self._num_points(level)
            if num_points not in found and num_points >= self._config.min_segments:
                why_not = against or self._too_few(num_points)
                found[num_points] = self._sketch(level, num_points, 1, why_not)
        return list(found.values())

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """The cheapest without an objection, each sketch as wide as pays. A direct answer must be
        among them."""
        able = [candidate for candidate in candidates if candidate.against is None]
        wide = [self.widened(c) if c.route == "sketch" else c for c in able]
        return min(wide, key=lambda c: c.cost)

    def widened(self, sketch: Candidate) -> Candidate:
        """The same sketch with more candidates a segment, where edges idle and it pays."""
        wide = [sketch]
        if self._config.uses("ensemble"):
            for width in range(2, MAX_WIDTH + 1):
                if width * sketch.num_points <= self._outlook.num_idle_slots:
                    wide.append(self._sketch(sketch.level, sketch.num_points, width, None))
        return min((c for c in wide if c.against is None), key=lambda c: c.cost, default=sketch)

    def max_repairs(self, sketch: Candidate) -> int:
        """Segments that the cloud may write itself because edges wrote them badly: as long as one
        gains more than it costs, and all together take no more of the cloud than a direct answer
        would have."""
        outlook = self._outlook
        taken = outlook.cloud.share_seconds(
            outlook.prompt_tokens, self._expansion_tokens(sketch.num_points)
        )
        cost = self._scale.cost(0.0, taken, 1.0 / sketch.num_points)
        spare = self.direct().cloud_seconds - sketch.cloud_seconds
        return max(0, int(spare / taken)) if cost < 0 else 0

    def smallest_sketch(self) -> Candidate:
        """Of as many points as a sketch must have, for an answer that is too short for a level."""
        return self._sketch(LEVELS[-1], self._config.min_segments, 1, None)

    def sketch_of(self, sketch_tokens: int) -> Candidate:
        """A sketch of a length that the request names."""
        level = sketch_tokens / max(1, self._question.tokens)
        limit = self._config.max_segments
        num_points = min(self._question.num_points, limit, round(sketch_tokens / LINE_TOKENS))
        num_points = max(num_points, self._config.min_segments)
        return self._sketch(min(1.0, level), num_points, 1, None)

    def _num_points(self, level: float) -> int:
        """That a sketch of this level holds; all of them where the question names their number."""
        question, limit = self._question, self._config.max_segments
        if question.points:
            return min(question.points, limit)
        return min(round(level * question.tokens / LINE_TOKENS), question.num_points, limit)

    def _too_few(self, num_points: int) -> str | None:
        """Why a sketch of so many points would not be the whole answer in short, if so."""
        wanted = min(self._question.num_points, self._config.max_segments)
        least = math.ceil(self._config.min_points_share * wanted)
        if num_points >= least:
            return None
        return f"{num_points} of {wanted} points would leave too much out"

    def _sketch(self, level: float, num_points: int, width: int, against: str | None) -> Candidate:
        question, outlook = self._question, self._outlook
        sketch_tokens = LINE_TOKENS * num_points
        expansion_tokens = self._expansion_tokens(num_points)
        models: Collection[str] = {edge.model for edge in outlook.edges if edge.model}
        score = question.suitability
        worth = self._quality.worth(models, level, score.question_class)
        candidate = Candidate(
            route="sketch",
            seconds=outlook.sketch_seconds(num_points, LINE_TOKENS, expansion_tokens, width),
            cloud_seconds=outlook.cloud.share_seconds(outlook.prompt_tokens, sketch_tokens)
            + self._check_s(num_points, width, expansion_tokens),
            quality=sketch_quality(score.score, num_points / question.num_points, worth, width),
            level=level,
            num_points=num_points,
            width=width,
            against=against,
            edge_seconds=num_points * width * self._edge_share_s(expansion_tokens),
        )
        return self._priced(candidate)

    def _check_s(self, num_points: int, width: int, expansion_tokens: float) -> float:
        """Of the cloud, that it takes to read all candidates, if it shall."""
        if width == 1 or not self._config.w_cloud_check:
            return 0.0
        tokens = NEW_PROMPT_TOKENS + round(expansion_tokens)
        return num_points * width * self._outlook.cloud.share_seconds(tokens, 0.0)

    def _edge_share_s(self, tokens: float) -> float:
        """Of the edges, that one expansion takes."""
        return self._outlook.edge_share_s(NEW_PROMPT_TOKENS, tokens)

    def _expansion_tokens(self, num_points: int) -> float:
        """Of each expansion, so that sketch and expansions make up the expected answer."""
        rest = max(0.0, self._question.tokens - LINE_TOKENS * num_points) / num_points
        most = min(self._config.max_expansion_tokens, self._outlook.expansion_tokens)
        return min(max(rest, _MIN_EXPANSION_TOKENS), most)

    def _priced(self, candidate: Candidate) -> Candidate:
        """With its cost, and the constraint that it breaks."""
        cost = self._scale.cost(
            *(candidate.seconds, candidate.cloud_seconds, candidate.quality),
            candidate.edge_seconds,
        )
        against = candidate.against
        if against is None and candidate.route != "direct":
            least = least_quality(self._question.suitability.question_class, self._config)
            if candidate.quality < least:
                against = f"its quality would be under {least:g}"
            elif candidate.seconds > self._longest_s:
                against = f"it would take longer than {self._longest_s:.2f} s"
        return replace(candidate, cost=cost, against=against)
