"""Frames: every message survives the trip, and nothing else gets in, at any price."""

from __future__ import annotations

import re
import resource
import struct
from pathlib import Path

import link_messages
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picert.errors import ProtocolError
from picert.messages import PROTOCOL_VERSION, Cancel, Drain, ExpandJob, Heartbeat, Hello, TextDelta
from picert.transport.codec import TYPE_NUMBERS, decode, encode

LIMIT = 1 << 20
pack = msgspec.msgpack.encode


def frames_of(kind: type, body: bytes) -> list[bytes]:
    return [bytes((PROTOCOL_VERSION, TYPE_NUMBERS[kind])), body]


@pytest.mark.parametrize("message", link_messages.ALL, ids=lambda m: type(m).__name__)
def test_message_survives_the_round_trip(message):
    assert decode(encode(message, LIMIT), LIMIT) == message


def test_every_type_has_a_sample_and_its_own_number():
    assert {type(m) for m in link_messages.ALL} == set(TYPE_NUMBERS)
    assert len(set(TYPE_NUMBERS.values())) == len(TYPE_NUMBERS)
    assert all(0 < number < 256 for number in TYPE_NUMBERS.values())


def test_documented_numbers_are_those_in_use():
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\w+) \| (\d+) \|", document, re.MULTILINE)
    assert {name: int(number) for name, number in rows} == {
        kind.__name__: number for kind, number in TYPE_NUMBERS.items()
    }


def test_unknown_version_names_both_versions():
    header, body = encode(Cancel("q"), LIMIT)
    with pytest.raises(ProtocolError, match=r"protocol 9, this side speaks 1: install the same"):
        decode([bytes((9, header[1])), body], LIMIT)


def test_unknown_type_is_refused_before_the_body_is_read():
    with pytest.raises(ProtocolError, match="type 200 is not known"):
        decode([bytes((PROTOCOL_VERSION, 200)), b"\xc1 not msgpack"], LIMIT)


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_wrong_number_of_frames_is_refused(count):
    with pytest.raises(ProtocolError, match=f"has {count} frames, must be 2"):
        decode([b"\x01\x07"] * count, LIMIT)


@pytest.mark.parametrize("header", [b"", b"\x01", b"\x01\x07\x00"])
def test_wrong_header_length_is_refused(header):
    with pytest.raises(ProtocolError, match="header has"):
        decode([header, pack(Cancel("q"))], LIMIT)


def test_oversize_is_refused_by_both_sides():
    message = TextDelta("q", 0, 0, "x" * 2000)
    with pytest.raises(ProtocolError, match="the limit is 1,024"):
        encode(message, 1024)
    with pytest.raises(ProtocolError, match="the limit is 1,024"):
        decode(encode(message, LIMIT), 1024)


def test_size_limit_is_inclusive():
    frames = encode(Cancel("q"), LIMIT)
    size = sum(map(len, frames))
    assert decode(frames, size) == Cancel("q")
    with pytest.raises(ProtocolError):
        decode(frames, size - 1)


def test_body_of_another_type_is_refused():
    with pytest.raises(ProtocolError, match="does not fit its type"):
        decode(frames_of(Hello, pack(Cancel("q"))), LIMIT)


def test_trailing_bytes_are_refused():
    with pytest.raises(ProtocolError, match="trailing"):
        decode(frames_of(Cancel, pack(Cancel("q")) + b"\x00"), LIMIT)


def test_text_that_is_not_utf8_is_refused():
    body = pack(Cancel("qq")).replace(b"\xa2qq", b"\xa2\xff\xfe")
    with pytest.raises(ProtocolError, match="not UTF-8"):
        decode(frames_of(Cancel, body), LIMIT)


def test_text_that_cannot_be_encoded_is_refused():
    with pytest.raises(ProtocolError, match="cannot be encoded"):
        encode(TextDelta("q", 0, 0, "\ud800"), LIMIT)


def test_value_outside_its_range_is_refused():
    job = link_messages.TO_EDGE[1]
    body = pack(job).replace(pack("temperature") + pack(0.5), pack("temperature") + pack(-0.5))
    with pytest.raises(ProtocolError, match=r"temperature is -0\.5"):
        decode(frames_of(type(job), body), LIMIT)


@pytest.mark.parametrize("usage", [-0.1, 1.1, float("nan"), float("inf")])
def test_implausible_load_is_refused(usage):
    beat = msgspec.structs.replace(link_messages.HEARTBEAT, kv_usage=usage)
    with pytest.raises(ProtocolError, match="kv_usage"):
        decode(frames_of(Heartbeat, pack(beat)), LIMIT)


@pytest.mark.parametrize(
    "decode_s", [{}, {0: 0.1}, {1: 0.0}, {1: -1.0}, {1: float("nan")}, {1: float("inf")}]
)
def test_implausible_speed_is_refused(decode_s):
    hello = link_messages.hello()
    curve = msgspec.structs.replace(hello.curves[0], decode_s_per_token=decode_s)
    body = pack(msgspec.structs.replace(hello, curves=(curve,)))
    with pytest.raises(ProtocolError, match="decode_s_per_token"):
        decode(frames_of(Hello, body), LIMIT)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "edge\n", "../etc", "é"])
def test_edge_name_that_could_not_be_a_label_is_refused(name):
    with pytest.raises(ProtocolError, match="name"):
        decode(frames_of(Hello, pack(link_messages.hello(name))), LIMIT)


@pytest.mark.parametrize("field", ["outline", "unknown"])
def test_deep_nesting_is_refused(field):
    body = b"\x81" + pack(field) + b"\x91" * (LIMIT - 100)
    with pytest.raises(ProtocolError):
        decode(frames_of(ExpandJob, body), LIMIT)


@pytest.mark.parametrize("marker", [b"\xdd", b"\xdf", b"\xdb", b"\xc6"], ids=repr)
@pytest.mark.parametrize("field", ["outline", "question", "unknown"])
def test_huge_declared_length_allocates_nothing(field, marker):
    body = b"\x81" + pack(field) + marker + struct.pack(">I", 2**32 - 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ProtocolError):
        decode(frames_of(ExpandJob, body), LIMIT)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


@given(st.lists(st.binary(max_size=64), max_size=4))
def test_random_frames_raise_nothing_but_protocol_error(frames):
    with pytest.raises(ProtocolError):
        decode(frames, LIMIT)


@given(
    st.sampled_from(link_messages.ALL),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 10_000),
)
def test_mutated_frames_decode_to_a_message_or_raise_protocol_error(message, edits, cut):
    header, body = (bytearray(frame) for frame in encode(message, LIMIT))
    for position, value in edits:
        body[position % len(body)] = value
    frames = [bytes(header), bytes(body[: cut % (2 * len(body))])]
    try:
        decoded = decode(frames, LIMIT)
    except ProtocolError as error:
        assert "\n" not in error.message  # noqa: PT017 -- both outcomes are fine
    else:
        assert type(decoded) is type(message)


@given(
    st.sampled_from(sorted(set(TYPE_NUMBERS.values()) - {TYPE_NUMBERS[Drain]})),  # {} is a Drain
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=8,
    ),
)
def test_any_other_msgpack_value_is_refused(number, value):
    with pytest.raises(ProtocolError):
        decode([bytes((PROTOCOL_VERSION, number)), pack(value)], LIMIT)


def test_field_name_of_a_peer_cannot_forge_a_line():
    body = msgspec.msgpack.encode({"type": "Cancel", "request_id": "q", "index": {"a\nb": 1}})
    job = msgspec.to_builtins(link_messages.TO_EDGE[1])
    job["sampling"]["forged\n12:00 error" + "x" * 1000] = 1
    for number, packed in ((7, body), (6, msgspec.msgpack.encode(job))):
        with pytest.raises(ProtocolError) as caught:
            decode([bytes((PROTOCOL_VERSION, number)), packed], LIMIT)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("message", link_messages.ALL, ids=lambda m: type(m).__name__)
def test_no_time_and_no_score_of_a_peer_is_no_number(message, number):
    fields = msgspec.to_builtins(message)
    names = [name for name, value in fields.items() if isinstance(value, float)]
    for name in names:
        body = pack({**fields, name: number})
        with pytest.raises(ProtocolError, match=name):
            decode(frames_of(type(message), body), LIMIT)
