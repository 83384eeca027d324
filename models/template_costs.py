"""What an operation of a chat template makes, counted before it is done.

Sizes are about characters, for a budget that `template_sandbox` keeps. What no size describes, work
that the interpreter does in one piece and out of anybody's sight, is refused here: numbers of
thousands of digits, searches from the end for long texts, values that nest without measure.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, KeysView, Mapping, Sequence, Sized, ValuesView
from typing import Any

from jinja2.utils import Namespace

_MAX_DEPTH = 20
_MAX_ITEMS = 1 << 18  # of one value, with all that is inside
_MAX_BITS = 1 << 14  # of a number that is computed with: division is quadratic
_MAX_PRECISION = 300  # decimals of `round`
_MAX_NEEDLE = 100  # characters to look for where that takes text times needle
_FLOAT_CHARS = 24
_SEEK = frozenset(
    ("rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip", "trim"),
)
_MULTIPLY = frozenset(("indent", "tojson", "translate"))  # a text they are given, by how often


class OverLimit(Exception):
    """The template runs too long or makes too much text."""


def extent(value: Any) -> int:
    """About how many characters `str(value)` has; whoever stands in it twice counts twice."""
    size, num_items = 0, 0
    level = [value]
    for _ in range(_MAX_DEPTH + 1):
        inside: list[Any] = []
        for item in level:
            if isinstance(item, (str, bytes)):
                size += len(item)
            elif isinstance(item, int):
                size += item.bit_length() // 3 + 1
            elif isinstance(item, float):
                size += _FLOAT_CHARS
            else:
                items = _inside(item)
                size += 1 + len(items)
                num_items += len(items)
                if num_items > _MAX_ITEMS:
                    raise OverLimit("it nests too many values")
                inside += items
        if not inside:
            return size
        level = inside
    raise OverLimit("it nests values too deep")


def _inside(value: Any) -> Sequence[Any]:
    """What `str(value)` also writes."""
    if isinstance(value, Namespace):
        value = getattr(value, "_Namespace__attrs")  # noqa: B009 - its class hides all others
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset, KeysView, ValuesView, ItemsView)):
        return list(value)
    return ()


def binop_size(operator: str, left: Any, right: Any) -> int:
    """About how many characters an operator's result has."""
    if operator == "%" and isinstance(left, (str, bytes)):
        return format_size(left, (right,))
    check_numbers(left, right)
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * abs(right) > _MAX_BITS:
            raise OverLimit("it computes with too large numbers")
        return 1
    if operator == "*":
        for factor, other in ((left, right), (right, left)):
            if isinstance(factor, int) and not isinstance(other, (int, float)):
                return extent(other) * max(factor, 0)
    return extent(left) + extent(right)


def check_numbers(*values: Any) -> None:
    """Raises OverLimit if one is an int of thousands of digits."""
    if any(isinstance(value, int) and value.bit_length() > _MAX_BITS for value in values):
        raise OverLimit("it computes with too large numbers")


def check_round(value: Any, given: Sequence[Any]) -> None:
    """Raises OverLimit if rounding would compute ten to a great power."""
    check_numbers(value)
    if any(isinstance(item, int) and abs(item) > _MAX_PRECISION for item in given):
        raise OverLimit(f"it rounds to over {_MAX_PRECISION} decimals")


def text_size(name: str, value: Any, given: Sequence[Any]) -> int:
    """About how many characters a text filter or a method of a text makes, at most."""
    size = extent(value)
    if name == "join" and isinstance(value, list):  # the filter: the separator comes second
        return size + len(value) * extent(list(given))
    if name == "join" and given:
        if not isinstance(given[0], Sized):
            raise OverLimit("it joins what has no length")
        return size * len(given[0]) + extent(given[0])
    if name == "replace" and len(given) >= 2:
        return size + (size + 1) * extent(given[1])
    if name in _SEEK and extent(list(given)) > _MAX_NEEDLE:
        raise OverLimit(f"it looks for a text of over {_MAX_NEEDLE} characters from an end")
    widths = [item for item in given if isinstance(item, int)]
    times = 1 + max(widths, default=0)
    if name in _MULTIPLY:
        times += sum(extent(item) for item in given if not isinstance(item, int))
    return (size + 1) * max(times, 1)


def format_size(template: str | bytes | int, given: Sequence[Any]) -> int:
    """About how many characters a format string makes, at most."""
    text = str(template)
    if "*" in text or re.search(r"\{[^{}]*\{", text):
        raise OverLimit("it formats with a computed width")
    widths = sum(int(digits) for digits in re.findall(r"\d+", text))
    fields = text.count("{") + text.count("%")
    return len(text) + widths + fields * extent(list(given))
