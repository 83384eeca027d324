"""Fields: typed reading of a mapping a stranger wrote; complaints name the file and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping

from picert.errors import ModelError


class Fields:
    """A view of `values` whose keys may share a prefix. None counts as absent.

    Every getter raises ModelError for a value of the wrong type, or absent without a default.
    """

    def __init__(self, where: str, values: Mapping[str, object], prefix: str = "") -> None:
        self.where = where
        self._values = values
        self._prefix = prefix

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self._values.get(self._prefix + key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """An int; a float that is whole counts, a bool does not."""
        value = self._get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(key, value, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite float or int."""
        value = self._get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(key, value, "a number")
        if abs(value) > 1e300 or not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A bool."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings."""
        value = self._get(key, None)
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise self._wrong(key, value, "a list of strings")
        return tuple(value)

    def flags(self, key: str) -> tuple[bool, ...]:
        """An array of bools; empty when it is absent or anything else."""
        value = self._values.get(self._prefix + key)
        if not isinstance(value, list | tuple) or not all(isinstance(v, bool) for v in value):
            return ()
        return tuple(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """One int or an array of them; empty when absent."""
        value = self._values.get(self._prefix + key)
        items = value if isinstance(value, list | tuple) else () if value is None else (value,)
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in items):
            raise self._wrong(key, value, "a whole number or a list of them")
        return tuple(items)

    def inner(self, key: str) -> Fields:
        """A mapping inside this one; empty when absent."""
        value = self._values.get(self._prefix + key)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(key, value, "an object")
        return Fields(f"{self.where} {key}", value or {})

    def _get(self, key: str, default: object) -> object:
        value = self._values.get(self._prefix + key)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.where} lacks {self._prefix}{key}: fetch or convert it again")
        return value

    def _wrong(self, key: str, value: object, wanted: str) -> ModelError:
        given = type(value).__name__ if isinstance(value, list | tuple | dict) else str(value)[:60]
        return ModelError(
            f"{self.where}: {self._prefix}{key} is {given!r}, must be {wanted}: "
            "fetch or convert the model again"
        )
