"""Who is alive: beats in, states out. Pure bookkeeping over a clock that is passed in; no socket, no task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

State = Literal["alive", "probation", "dead"]
