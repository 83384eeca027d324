"""Inputs that are what they should be, nearly: hypothesis writes them by the rules of each form.

Each number, name and value on the way may be another one, so what is wrong is wrong at one place
and all around it is sound. That reaches what damage to the bytes of
one sound input hardly does: counts that lie, types in each other's place, programs that run on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from itertools import product
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from picert.cloud.openai_schema import ChatRequest
from picert.models.raw_tensor import BLOCK_FORMATS
from picert.transport.codec import TYPE_NUMBERS

NUMBERS = st.sampled_from(
    (0, 1, -1, 2, 7, 255, 2**16, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
)
WORDS = st.sampled_from(("", "a", "x.y", "é", "\U0001f331", "\x00", "<|im_end|>", "a\nb", "0" * 99))
FLOATS = st.sampled_from((0.0, -0.0, 0.5, 1.0, 1e300, 5e-324, float("inf"), float("nan")))
LEAVES = st.none() | st.booleans() | NUMBERS | FLOATS | WORDS
ANYTHING = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(WORDS, LEAVES, max_size=3)


def mostly(
    sound: SearchStrategy[Any], other: SearchStrategy[Any] = ANYTHING
) -> SearchStrategy[Any]:
    """Nine in ten are `sound`."""
    return st.integers(0, 9).flatmap(lambda die: sound if die else other)


# --- the link -------------------------------------------------------------------------------------


def frames() -> SearchStrategy[bytes]:
    """A header and a body for each type of message, as its schema has it."""
    infos = {number: msgspec.inspect.type_info(cls) for cls, number in TYPE_NUMBERS.items()}
    kinds = [st.tuples(st.just(number), _value(info)) for number, info in infos.items()]
    return st.one_of(kinds).map(lambda it: bytes((1, it[0])) + msgspec.msgpack.encode(it[1]))


def _value(info: Any) -> SearchStrategy[Any]:
    """A value of a msgspec type, or now and then another one."""
    kind = msgspec.inspect
    if isinstance(info, kind.StructType):
        fields = {field.encode_name: _value(field.type) for field in info.fields}
        needed = {name: fields.pop(name) for name in _required(info)}
        tag = {} if info.tag_field is None else {info.tag_field: mostly(st.just(info.tag))}
        return st.fixed_dictionaries({**tag, **needed}, optional=fields)
    if isinstance(info, kind.VarTupleType | kind.ListType):
        return mostly(st.lists(_value(info.item_type), max_size=3))
    if isinstance(info, kind.TupleType):
        return mostly(st.tuples(*map(_value, info.item_types)))
    if isinstance(info, kind.DictType):
        return mostly(st.dictionaries(_key(info.key_type), _value(info.value_type), max_size=3))
    if isinstance(info, kind.UnionType):
        return st.one_of(map(_value, info.types))
    if isinstance(info, kind.LiteralType):
        return mostly(st.sampled_from(info.values))
    if isinstance(info, kind.IntType):
        return mostly(st.integers(info.ge or 0, (info.le or 100)))
    if isinstance(info, kind.FloatType):
        return mostly(st.floats(-1.0, 0.0) if info.le == 0 else st.floats(0.0625, 1.0))
    if isinstance(info, kind.StrType):
        return mostly(st.sampled_from(("edge-1", "q1", "tiny")))
    return ANYTHING


def _key(info: Any) -> SearchStrategy[Any]:
    return st.integers(1, 64) | NUMBERS if isinstance(info, msgspec.inspect.IntType) else WORDS


def _required(info: Any) -> list[str]:
    return [field.encode_name for field in info.fields if field.required]


# --- model files ----------------------------------------------------------------------------------


@st.composite
def gguf_headers(draw: DrawFn) -> bytes:
    """Keys of all types and tensors one behind the other."""
    keys = draw(st.lists(_gguf_key(), max_size=6))
    tensors, place = [], 0
    for index in range(draw(st.integers(0, 4))):
        dtype = draw(st.sampled_from(sorted(_GGUF_TYPES)))
        values, size = BLOCK_FORMATS[dtype]
        rows = draw(st.integers(1, 4))
        name = _text(draw(mostly(st.just(f"blk.{index}.attn_q.weight"), WORDS)))
        shape = [draw(mostly(st.just(n), NUMBERS)) for n in (values, rows)]
        kind = draw(mostly(st.just(_GGUF_TYPES[dtype]), NUMBERS))
        start = draw(mostly(st.just(place), NUMBERS))
        dimensions = draw(mostly(st.just(len(shape)), NUMBERS))
        head = name + _u32(dimensions) + b"".join(map(_u64, shape))
        tensors.append(head + _u32(kind) + _u64(start))
        place += -(-rows * size // 32) * 32
    counts = [draw(mostly(st.just(len(items)), NUMBERS)) for items in (tensors, keys)]
    version = draw(mostly(st.just(3), NUMBERS))
    return b"".join((b"GGUF", _u32(version), *map(_u64, counts), *keys, *tensors))


_GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14, "BF16": 30}
_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 12: "d"}
_GGUF_NAMES = ("general.alignment", "general.architecture", "llama.block_count", "tokenizer.tokens")


@st.composite
def _gguf_key(draw: DrawFn) -> bytes:
    name = draw(st.sampled_from(_GGUF_NAMES) | WORDS)
    kind = draw(st.sampled_from((*_GGUF_SCALARS, 8, 9)))
    return _text(name) + _u32(draw(mostly(st.just(kind), NUMBERS))) + draw(_gguf_value(kind))


@st.composite
def _gguf_value(draw: DrawFn, kind: int) -> bytes:
    if kind == 8:
        return _text(draw(WORDS), draw(mostly(st.none(), NUMBERS)))
    if kind == 9:
        inner = draw(st.sampled_from((*_GGUF_SCALARS, 8, 9)))
        items = draw(st.lists(_gguf_value(inner), max_size=3)) if inner != 9 else []
        count = draw(mostly(st.just(len(items)), NUMBERS))
        return _u32(inner) + _u64(count) + b"".join(items)
    code = "<" + _GGUF_SCALARS[kind]
    number = draw(st.sampled_from((0, 1, 32, 64)))
    return struct.pack(code, min(number, 1) if kind == 7 else number)


def _u32(number: int) -> bytes:
    return (number % 2**32).to_bytes(4, "little")


def _u64(number: int) -> bytes:
    return (number % 2**64).to_bytes(8, "little")


def _text(text: str, length: int | None = None) -> bytes:
    raw = text.encode()
    return _u64(len(raw) if length is None else length) + raw


@st.composite
def safetensors_headers(draw: DrawFn) -> bytes:
    """Tensors one behind the other, under names that a Llama has."""
    entries: dict[str, Any] = {}
    place = 0
    for name in draw(st.lists(st.sampled_from(_SAFETENSORS_NAMES), max_size=6, unique=True)):
        rows = draw(st.integers(1, 16))
        shape = draw(mostly(st.just([rows, 2]), st.lists(LEAVES, max_size=9)))
        offsets = draw(mostly(st.just([place, place + 4 * rows]), st.lists(LEAVES, max_size=3)))
        dtype = draw(mostly(st.sampled_from(("F16", "BF16")), LEAVES))
        entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        entries[draw(mostly(st.just(name), WORDS))] = draw(mostly(st.just(entry)))
        place += 4 * rows
    if draw(st.booleans()):
        entries["__metadata__"] = draw(ANYTHING)
    raw = json.dumps(entries).encode()
    return _u64(draw(mostly(st.just(len(raw)), NUMBERS))) + raw


_SAFETENSORS_NAMES = (
    *("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer, part in product((0, 1, 99999), ("self_attn.q_proj", "mlp.up_proj", "x.y"))
    ),
    "model.layers.0.self_attn.rotary_emb.inv_freq",
)


# --- chat templates -------------------------------------------------------------------------------

_FILTERS = (
    *("length", "list", "upper", "title", "trim", "join", "tojson", "string", "first", "last"),
    *("sort", "unique", "reverse", "round", "int", "float", "abs", "items", "dictsort", "safe"),
    *("default(x)", "replace(x, y)", "indent(y)", "tojson(indent=y)", "int(0, 16)", "join(y)"),
    *("round(x, 'ceil')", "map('upper')", "map('indent', y)", "groupby(0)", "trim(y)", "escape"),
)
_METHODS = (
    *("upper()", "split(y)", "rsplit(y)", "rfind(y)", "join(y)", "replace(x, y)", "center(y)"),
    *(
        "strip(y)",
        "encode()",
        "format(x, y)",
        "items()",
        "get(x)",
        "to_bytes(y, 'big')",
        "index(y)",
    ),
    *("translate({97: y})", "splitlines()", "zfill(y)", "copy()", "content", "role", "__class__"),
)
_NAMES = st.sampled_from(("x", "y", "m", "messages", "n.a", "n.b", "loop.index", "bos_token"))
_LITERALS = st.sampled_from(
    (
        *("0", "3", "-1", "99999", "10**9", "1.5", "true", "none", "'a'", "'\\n'", "'{}'", "'%9d'"),
        *("'ab' * 99999", "2**16000", "range(99999)", "[]", "()", "{}", "namespace(a=1)"),
    )
)
_OPERATORS = st.sampled_from(
    ("+", "-", "*", "**", "/", "//", "%", "~", "==", "<", "in", "and", "is divisibleby")
)


def _larger(inner: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, inner, _OPERATORS, inner),
        st.builds("({}) | {}".format, inner, st.sampled_from(_FILTERS)),
        st.builds("({}).{}".format, inner, st.sampled_from(_METHODS)),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("({}, {})".format, inner, inner),
        st.builds("{{'a': {}, 'b': {}}}".format, inner, inner),
        st.builds("dict(a={}, b={})".format, inner, inner),
        st.builds("namespace(a={}, b={})".format, inner, inner),
        st.builds("({})[{}]".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("f({})".format, inner),
        st.builds("strftime_now({})".format, inner),
    )


_EXPRESSIONS = st.recursive(_NAMES | _LITERALS, _larger, max_leaves=6)
_TARGETS = st.sampled_from(("x", "y", "n.a", "n.b", "x, y"))


def _blocks(inner: SearchStrategy[str]) -> SearchStrategy[str]:
    return st.one_of(
        st.builds("{{% for m in {} %}}{}{{% endfor %}}".format, _EXPRESSIONS, inner),
        st.builds("{{% for x in {} recursive %}}{}{{% endfor %}}".format, _EXPRESSIONS, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, _EXPRESSIONS, inner, inner),
        st.builds("{{% macro f(x) %}}{}{{% endmacro %}}".format, inner),
        st.builds("{{% set y %}}{}{{% endset %}}".format, inner),
        st.builds("{{% filter upper %}}{}{{% endfilter %}}".format, inner),
        st.builds("{{% call f({}) %}}{}{{% endcall %}}".format, _EXPRESSIONS, inner),
        st.lists(inner, min_size=2, max_size=4).map("".join),
    )


def templates() -> SearchStrategy[bytes]:
    """Programs of all that templates may do, and some that they may not."""
    statements = st.one_of(
        st.builds("{{{{ {} }}}}".format, _EXPRESSIONS),
        st.builds("{{% set {} = {} %}}".format, _TARGETS, _EXPRESSIONS),
        st.sampled_from(("text\n", "{% break %}", "{% continue %}", "{{ loop(x) }}")),
    )
    begin = "{% set x = 'ab' %}{% set y = 7 %}{% set n = namespace(a=x, b=y) %}"
    bodies = st.recursive(statements, _blocks, max_leaves=6)
    return bodies.map(lambda body: (begin + body).encode())


# --- HTTP -----------------------------------------------------------------------------------------

_FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}
_SCHEMA = {"name": "s", "schema": {"type": "object"}, "strict": True}
_SOUND: dict[str, tuple[Any, ...]] = {
    "stop": ("a", ["a", "b"]),
    "logit_bias": ({"1": -5.0}, {"2": 100}),
    "stream_options": ({"include_usage": True},),
    "response_format": ({"type": "json_object"}, {"type": "json_schema", "json_schema": _SCHEMA}),
    "tools": ([{"type": "function", "function": _FUNCTION}],),
    "tool_choice": ("none", "auto", "required", {"type": "function", "function": {"name": "f"}}),
    "picert": ({"route": "auto", "deadline_ms": 1000, "explain": True}, {"progress": True}),
    "model": ("cloud-model",),
    "n": (1, 2),
}


@st.composite
def bodies(draw: DrawFn) -> bytes:
    """Any fields that a chat request has, sound and unsound."""
    fields = {
        name: mostly(st.sampled_from(_SOUND.get(name, (None, 1, 0.5, True, "a"))))
        for name in sorted(set(ChatRequest.model_fields) - {"messages"})
    }
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=6, unique=True))
    body = {name: draw(fields[name]) for name in chosen}
    body["messages"] = draw(mostly(st.lists(_turns(), min_size=1, max_size=4)))
    return json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _turns() -> SearchStrategy[Any]:
    call = {"id": mostly(WORDS), "type": mostly(st.just("function")), "function": _called()}
    parts = st.lists(
        mostly(st.fixed_dictionaries({"type": mostly(st.just("text")), "text": mostly(WORDS)})),
        max_size=3,
    )
    roles = st.sampled_from(("system", "developer", "user", "assistant", "tool"))
    return mostly(
        st.fixed_dictionaries(
            {"role": mostly(roles), "content": mostly(WORDS | parts)},
            optional={
                "name": mostly(WORDS),
                "tool_call_id": mostly(WORDS),
                "tool_calls": mostly(st.lists(st.fixed_dictionaries(call), max_size=2)),
            },
        )
    )


def _called() -> SearchStrategy[Any]:
    arguments = st.sampled_from(("{}", '{"a": 1}', "", "[]", "{", '{"a":' * 2000))
    return mostly(
        st.fixed_dictionaries({"name": mostly(st.just("f")), "arguments": mostly(arguments)})
    )


STRUCTURES: dict[str, Callable[[], SearchStrategy[bytes]]] = {
    "codec": frames,
    "gguf": gguf_headers,
    "safetensors": safetensors_headers,
    "template": templates,
    "http": bodies,
}
