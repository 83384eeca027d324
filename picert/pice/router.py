"""Does this question suit point-wise expansion? Judged by its wording, which costs nothing.

A sketch pays where the answer is several points that can be written apart. It does not where one
step needs the one before (code, math, estimates), where form is the point (a poem, a letter) or
where the answer is one fact. The wording is read in English; a question in another language shows
no feature, scores low and is answered directly.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

QuestionClass = Literal[
    "generic",
    "knowledge",
    "roleplay",
    "common-sense",
    "fermi",
    "counterfactual",
    "coding",
    "math",
    "writing",
]

_BIAS = -1.0  # log-odds of a question without any feature
_LONG_WORDS = 120
_MAX_CHARS = 4000  # of the question that are looked at


@dataclass(frozen=True, slots=True)
class Suitability:
    """How well a question suits a sketch: from 0 to 1, and a reason for each feature found."""

    score: float
    question_class: QuestionClass
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Feature:
    """A wording, and what it adds to the log-odds that a sketch suits."""

    name: str
    weight: float
    pattern: re.Pattern[str]


def _words(alternatives: str) -> str:
    return rf"\b(?:{alternatives})\b"


_ASK = r"^(?:please |can you |could you |would you |i want you to |help me )*"
_CODING = (
    r"```|\b(?:python|javascript|typescript|java|rust|golang|sql|regex|html|css|bash|numpy|pandas)"
    r"\b|c\+\+|#include|\bdef \w+\(|\w\(\w*\)|\b[a-z]+error\b|"
    + _words(
        "(?:write|implement|create|build|fix|debug|refactor|optimi[sz]e|develop|design)"
        ".{0,40}(?:function|code|program|script|class|algorithm|query|api|method|bug|regex)"
        "|unit tests?|source code|stack trace|compil(?:e|er|ation) error|segfault"
    )
)
_MATH = r"\d\s*[-+*/^=×÷]\s*[\dxyn(]|\b[xyn]\s*[-+*/^=]\s*\d|\d\s*%|" + _words(
    "solve|calculate|compute|equations?|integral|derivative|differentiate|factori[sz]e|prove"
    "|probability|remainder|perimeter|hypotenuse|prime numbers?|square root|polynomial"
    "|what is \\d+|sum of the"
)
_FERMI = _words(
    "how many|how much|how long would it take|how far could|how fast|how tall|estimate|roughly how"
    "|what (?:fraction|percentage|share) of"
)
_WRITING = (
    _ASK
    + _words(
        "write|compose|draft|rewrite|edit|proofread|translate|summari[sz]e|paraphrase|continue"
        "|(?:create|make up|tell(?: me)?) an? .{0,30}(?:story|poem|song|slogan|joke|tale)"
    )
    + "|"
    + _words("haiku|limerick|sonnet|screenplay|cover letter|blog post|short story")
)
_ROLEPLAY = _words(
    "pretend|act as|play the role|role-?play|imagine (?:that )?you(?: are|'re|rself)"
    "|you are (?:an?|the|now)|if you were|in the (?:voice|style|role) of|speak as|respond as"
    "|as an? (?:pirate|detective|wizard|chef|knight|alien|robot|captain|superhero|sports)"
)
_COUNTERFACTUAL = _words(
    "what if|what (?:would|might|could) (?:have )?(?:happen(?:ed)?|the world|our|life)"
    "|what (?:would|might|could) the (?:\\w+ )?consequences|had (?:never|not) been"
    "|would have (?:happened|changed|been)"
    "|how (?:would|might) .{3,80}(?:change|differ|be different|look|evolve|if)"
    "|imagine a world|suppose (?:that )?(?:the|all|no|every|humans)"
)
_PLURALS = _words(
    "ways|steps|tips|strategies|methods|techniques|benefits|advantages|disadvantages|drawbacks"
    "|pros|cons|reasons|factors|causes|effects|impacts|consequences|implications|types|kinds"
    "|examples|signs|symptoms|differences|similarities|features|challenges|habits|ideas|qualities"
    "|skills|principles|stages|phases|components|elements|risks|aspects|measures|options|things"
    "|mistakes|arguments|roles|functions|uses|applications|theories|themes|contributions|hobbies"
    "|practices|precautions|activities|obstacles|lessons|traits|solutions|suggestions"
)
_ONE_FACT = (
    r"^(?:who|when|where|which|whose)\b|^(?:what(?: is|'s| was)|tell me) (?:the |your )?(?:\w+ )?"
    + _words(
        "capital|name|date|year|population|currency|height|temperature|symbol|distance|president"
        "|author|opposite|plural|abbreviation|time|colou?r|boiling point|speed|meaning|definition"
        "|largest|smallest|tallest|longest|fastest|biggest|first|highest"
    )
)
_SHORT_FORM = _words(
    "(?:in|with|using) (?:just |only )?(?:one|a single|a|two|\\d+) (?:sentences?|words?|lines?"
    "|phrase)|one[- ](?:word|sentence|liner)|briefly|in brief|in short|yes or no|true or false"
    "|tl;?dr|short answer|just the answer|no explanation"
)

_EXPLAIN = _words("explain|describe|discuss|analy[sz]e|overview of|tell me about")
_WHY_OR_HOW = (
    r"^(?:why|how (?:does|did|do|is|are|has|have|was|were)|what (?:makes|causes|caused|led))\b"
)
_YES_OR_NO = (
    r"^(?:is|are|was|were|does|do|did|can|will|has|have|am)\b"
    r"(?! you (?:explain|list|describe|give))"
)
_SMALL_TALK = r"^(?:hi|hello|hey|thanks|thank you|good (?:morning|evening|night)|how are you|bye)\b"
_COMMON_SENSE = (
    r"^(?:why (?:do|does|is|are|might|would)|how (?:do|can) you (?:tell|know)"
    r"|what (?:are|is) (?:some|a) (?:signs?|clues?|subtle|good indicator))\b"
)
_ADVICE = (
    r"\bhow (?:can|should|do|to|could) \w+\b"
    r"|\b(?:ways|tips|steps|habits|advice|hobbies|strategies)\b|^what should"
)
_KNOWLEDGE = _words(
    "explain|describe|discuss|what (?:is|are|was|were|causes|caused)|how (?:does|did)|compare"
    "|history|difference|who|when|where|which"
)
_FEATURES = tuple(
    _Feature(name, weight, re.compile(pattern))
    for name, weight, pattern in (
        ("asks for several things", 1.6, _PLURALS),
        ("asks what they are", 0.8, r"\b(?:what|which) (?:are|were)\b"),
        ("asks for a list", 1.2, _ASK + _words("list|name|give|suggest|recommend|outline|provide")),
        ("asks to compare", 1.4, _words("compare|contrast|differences? between|versus|vs|better")),
        ("asks for advice", 1.8, _words("how (?:can|should|do|could|to|would you)|what should")),
        ("asks what would be", 2.4, _COUNTERFACTUAL),
        ("asks to explain", 1.2, _EXPLAIN),
        ("asks why or how", 1.3, _WHY_OR_HOW),
        ("is about code", -4.0, _CODING),
        ("is about math", -3.5, _MATH),
        ("asks for an estimate", -4.0, _FERMI),
        ("asks for a piece of writing", -4.0, _WRITING),
        ("asks to play a role", -4.0, _ROLEPLAY),
        ("asks for a short answer", -4.0, _SHORT_FORM),
        ("asks for one fact", -2.0, _ONE_FACT),
        ("asks yes or no", -1.5, _YES_OR_NO),
        ("is small talk", -4.0, _SMALL_TALK),
    )
)

_CLASSES: tuple[tuple[QuestionClass, re.Pattern[str]], ...] = (
    ("coding", re.compile(_CODING)),
    ("roleplay", re.compile(_ROLEPLAY)),
    ("math", re.compile(_MATH)),
    ("writing", re.compile(_WRITING)),
    ("fermi", re.compile(_FERMI)),
    ("counterfactual", re.compile(_COUNTERFACTUAL)),
    ("common-sense", re.compile(_COMMON_SENSE)),
    ("generic", re.compile(_ADVICE)),
    ("knowledge", re.compile(_KNOWLEDGE)),
)


def suitability(question: str) -> Suitability:
    """Score `question` by its wording. Any string is fine; an empty one suits nothing."""
    text = _normalised(question)
    question_class = classify(question)
    if not text:
        return Suitability(0.0, question_class, ("the question is empty",))
    found = [(f.name, f.weight) for f in _FEATURES if f.pattern.search(text)]
    num_words = len(text.split())
    if num_words > _LONG_WORDS:
        found.append((f"has over {_LONG_WORDS} words", -1.5))
    if num_words < 3:
        found.append(("has under three words", -2.0))
    score = 1 / (1 + math.exp(-(_BIAS + sum(weight for _, weight in found))))
    reasons = tuple(f"{name} ({weight:+.1f})" for name, weight in found)
    return Suitability(round(score, 3), question_class, reasons or ("no known wording",))


def classify(question: str) -> QuestionClass:
    """The one of nine classes that the wording points to; `generic` where nothing stands out."""
    text = _normalised(question)
    return next((name for name, pattern in _CLASSES if pattern.search(text)), "generic")


def is_one_fact(question: str) -> bool:
    """Whether the wording asks for a single fact, which a line answers."""
    text = _normalised(question)
    return re.search(_ONE_FACT, text) is not None and re.search(_PLURALS, text) is None


def _normalised(question: str) -> str:
    return " ".join(question[:_MAX_CHARS].casefold().replace("’", "'").split())
