"""Runs a chat template, a program out of a model's file: sandboxed, bounded in time and in size.

Jinja's sandbox keeps a template inside its data. Added here: every round of a loop, call, filter
and operator pays for what it makes, out of a budget of time and text, so that a template can
neither run on nor fill the memory. Jinja's sandbox is extended by subclassing, its documented way.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial, wraps
from types import CodeType, MappingProxyType
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.filters import FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from picert.errors import InvalidRequest, ModelError
from picert.models.template_costs import (
    OverLimit,
    binop_size,
    check_numbers,
    check_round,
    extent,
    format_size,
    text_size,
)

RENDER_LIMIT_S = 1.0
MAX_TEMPLATE_CHARS = 128 << 10
MIN_BUDGET_CHARS = 4 << 20  # what a template may make, over all its operations …
BUDGET_PER_CHAR = 64  # … and for each character of the messages
_MAX_PATTERN = 100  # characters of strftime_now's; each may ask for many
_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
# Filters a template may use: those that make text of their arguments, and those that do not.
_TEXT_FILTERS = frozenset(
    (
        *("capitalize", "e", "escape", "indent", "join", "lower", "replace", "safe", "string"),
        *("striptags", "title", "tojson", "trim", "upper"),
    )
)
_PLAIN_FILTERS = frozenset(
    (
        *("abs", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items"),
        *("last", "length", "list", "map", "max", "min", "reject", "rejectattr", "reverse"),
        *("round", "select", "selectattr", "sort", "unique"),
    )
)
_FILTERS = _TEXT_FILTERS | _PLAIN_FILTERS


class _Refused(Exception):
    """The template called raise_exception: the messages are not what it takes."""


def compile_template(source: str) -> CodeType:
    """Compile a template. Raises ModelError if it is too long or not valid."""
    if len(source) > MAX_TEMPLATE_CHARS:
        raise ModelError(
            f"the chat template has {len(source):,} characters, the limit is {MAX_TEMPLATE_CHARS:,}"
        )
    # Training tools mark the assistant's words with {% generation %}; here it means nothing.
    source = _GENERATION_TAG.sub(_generation_as_if, source)
    environment = _Sandbox(0, time.monotonic)
    try:
        tree = environment.parse(source)
        _add_ticks(tree)
        return environment.compile(tree)
    except Exception as error:  # the parser, Python's compiler, the recursion limit
        raise ModelError(f"the chat template is not valid: {_one_line(error)}") from None


def run_template(
    code: CodeType,
    variables: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """The text a compiled template makes of its variables.

    Raises InvalidRequest with the template's own message if it refuses them, ModelError if it
    fails, runs for over RENDER_LIMIT_S or makes too much text.
    """
    try:
        environment = _Sandbox(extent(variables), clock)
        template = Template.from_code(environment, code, environment.make_globals(None))
        return "".join(template.generate(variables))
    except _Refused as refusal:
        raise InvalidRequest(_one_line(refusal), param="messages") from None
    except Exception as error:  # a template is a program: it may raise anything
        raise ModelError(f"the chat template failed: {_one_line(error)}") from None


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering, which holds its budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//"})

    def __init__(self, input_chars: int, clock: Callable[[], float]) -> None:
        # Not optimised: constants would be computed at compile time, outside any budget.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=self._output,
            extensions=["jinja2.ext.loopcontrols"],
        )
        self._clock = clock
        self._deadline = clock() + RENDER_LIMIT_S
        self._budget = MIN_BUDGET_CHARS + BUDGET_PER_CHAR * input_chars
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "strftime_now": _strftime_now}
        self.filters = dict(_PAID_FILTERS)
        self.filters["tick"] = pass_context(partial(self._tick))
        self.filters["concat"] = pass_context(partial(self._concat))
        self.filters["made"] = pass_context(partial(self._made))
        self.tests = {**self.tests, "divisibleby": _is_divisible}

    def spend(self, size: int = 0) -> None:
        """Pay for an operation that makes `size` characters or items. Raises OverLimit."""
        self._budget -= size + 1
        if self._budget < 0:
            raise OverLimit("it makes too much text")
        if self._clock() > self._deadline:
            raise OverLimit(f"it takes over {RENDER_LIMIT_S:g} s")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`left operator right`, paid for before it is done."""
        self.spend(binop_size(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call of a function, method or macro, paid for before it is done."""
        formatted = getattr(function, "__wrapped__", None)  # Jinja wraps str.format
        owner = getattr(formatted or function, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            given = (*args, *kwargs.values())
            name = getattr(function, "__name__", "")
            self.spend(format_size(owner, given) if formatted else text_size(name, owner, given))
        elif isinstance(function, type):  # dict, namespace and the like hold what they are given
            self.spend(extent([*args, *kwargs.values()]))
        else:
            self.spend()
        return super().call(context, function, *args, **kwargs)

    def _tick(self, context: Context, value: Any) -> Any:
        """Stands at the head of every loop's body."""
        self.spend()
        return value

    def _concat(self, context: Context, parts: list[Any]) -> str:
        """The `~` operator."""
        self.spend(extent(parts))
        return "".join(map(str, parts))

    def _made(self, context: Context, value: Any) -> Any:
        """Stands behind every list, tuple and mapping that is written out: what stands in it twice
        is twice as long, whoever compares it or writes it later."""
        self.spend(extent(value))
        return value

    def _output(self, value: Any) -> Any:
        """Stands before every value that becomes output."""
        self.spend(extent(value))
        return value


def _paying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is paid for, out of the budget of its rendering, before it does its work."""
    wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    @wraps(function)
    def paying(context: Context, value: Any, *given: Any, **kwargs: Any) -> Any:
        environment = context.environment
        assert isinstance(environment, _Sandbox)
        if name in _TEXT_FILTERS:
            if name == "join":
                value = list(value)
            environment.spend(text_size(name, value, (*given, *kwargs.values())))
        else:
            if name == "round":
                check_round(value, (*given, *kwargs.values()))
            environment.spend(len(value) if isinstance(value, (Sequence, Mapping)) else 0)
        passed = {"context": context, "eval_context": context.eval_ctx, "environment": environment}
        return function(*([passed[wanted]] if wanted else []), value, *given, **kwargs)

    return paying


def _add_ticks(tree: nodes.Template) -> None:
    """Have every loop pay for each round, and lists, mappings and `a ~ b` for what is in them."""
    for loop in tree.find_all(nodes.For):
        loop.body.insert(0, nodes.ExprStmt(_filter(nodes.Const(0), "tick")))
    for node in list(tree.find_all(nodes.Node)):
        for field, value in node.iter_fields():
            if isinstance(value, list):
                value[:] = [_paid(item) for item in value]
            else:
                setattr(node, field, _paid(value))


def _paid(value: Any) -> Any:
    if isinstance(value, nodes.Concat):
        return _filter(nodes.List(value.nodes), "concat", lineno=value.lineno)
    is_read = getattr(value, "ctx", "load") == "load"  # else names to be set, in brackets
    if isinstance(value, nodes.List | nodes.Dict | nodes.Tuple) and is_read:
        return _filter(value, "made", lineno=value.lineno)
    return value


def _filter(value: nodes.Expr, name: str, lineno: int = 1) -> nodes.Filter:
    filtered = nodes.Filter(value, name, [], [], None, None)
    filtered.set_lineno(lineno, override=False)
    return filtered


def _generation_as_if(tag: re.Match[str]) -> str:
    return f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}"


def _refuse(message: str) -> None:
    raise _Refused(message)


def _is_divisible(value: Any, by: Any) -> bool:
    check_numbers(value, by)
    return bool(value % by == 0)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _MAX_PATTERN:
        raise OverLimit(f"it formats the time with over {_MAX_PATTERN} characters")
    return datetime.now().strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OverLimit | _Refused) else f"{type(error).__name__}: {text}"


_PAID_FILTERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {name: _paying(name, _to_json if name == "tojson" else FILTERS[name]) for name in _FILTERS}
)
