"""Labels of what decided a plan: a small closed set, for whoever counts. The sentence itself is for
whoever reads it."""

from __future__ import annotations

from typing import Literal, get_args

Why = Literal[
    "requested",  # the request names its route
    "mode",  # the mode answers everything so
    "cheapest",  # of the candidates of mode pice
    "suitable",  # a baseline's threshold
    "unsuitable",
    "cost",  # a sketch would cost more than a direct answer
    "quality",  # no sketch would be good enough
    "time",  # no sketch would be in time
    "short",
    "too_many_points",
    "edges_busy",
    "no_edge",
    "context",  # of the edges is too small
    "no_question",
    "indivisible",  # several writers would lose something of the request
    "only_cloud",  # nobody else can answer it
    "other",
]
WHYS: tuple[Why, ...] = get_args(Why)

# Words of a plan's last reason -> label. The first that is found counts.
_WORDS: tuple[tuple[str, Why], ...] = (
    ("the request asks for", "requested"),
    ("edge_only: edge_only:", "cheapest"),
    ("sketch: sketch at", "cheapest"),
    ("sketch: it suits", "suitable"),
    ("suitability is at least", "suitable"),
    ("suitability is under", "unsuitable"),
    ("answer everything", "mode"),
    ("answers everything", "mode"),
    ("a sketch would cost more", "cost"),
    ("its quality would be under", "quality"),
    ("it would take longer", "time"),
    ("too few to share", "short"),
    ("no room for a sketch", "short"),
    ("too short for a sketch", "short"),
    ("points are asked for", "too_many_points"),
    ("wait for", "edges_busy"),
    ("no edge is connected", "no_edge"),
    ("the edges' context", "context"),
    ("not a question of the user's", "no_question"),
    ("has earlier turns", "indivisible"),
    ("asks for more than help", "indivisible"),
    ("stop strings or tokens are set", "indivisible"),
    ("logit_bias is set", "indivisible"),
    ("a minimum length is set", "indivisible"),
    ("is completed as it stands", "only_cloud"),
    ("several answers are asked for", "only_cloud"),
    ("tools are given", "only_cloud"),
    ("form of the answer is prescribed", "only_cloud"),
    ("log-probabilities are asked for", "only_cloud"),
    ("turn has begun", "only_cloud"),
    ("last turn is to be continued", "only_cloud"),
)


def why(reason: str) -> Why:
    """The label of a plan's last reason."""
    return next((label for words, label in _WORDS if words in reason), "other")
