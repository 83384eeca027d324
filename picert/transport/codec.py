"""Messages to frames and back: a header of two bytes (protocol version, type), then a msgpack body
checked by schema.

Whatever can be refused is refused before the body is unpacked. Nothing here is ever executed,
evaluated or unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from picert.errors import ProtocolError
from picert.messages import (
    PROTOCOL_VERSION,
    AnswerJob,
    Cancel,
    Drain,
    ExpandJob,
    Expansion,
    Failure,
    Heartbeat,
    Hello,
    LinkMessage,
    LoadModel,
    Probe,
    TextDelta,
    Welcome,
)

# The type byte of the header. A number is never given to another type; new types get new numbers.
TYPE_NUMBERS: Mapping[type[LinkMessage], int] = MappingProxyType(
    {
        Hello: 1,
        Welcome: 2,
        Heartbeat: 3,
        Drain: 4,
        ExpandJob: 5,
        AnswerJob: 6,
        Cancel: 7,
        TextDelta: 8,
        Expansion: 9,
        Failure: 10,
        Probe: 12,
        LoadModel: 13,
    }
)
_NUM_FRAMES = 2
_HEADER_BYTES = 2
_MAX_PROBLEM = 200  # characters
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: Mapping[int, msgspec.msgpack.Decoder[Any]] = MappingProxyType(
    {number: msgspec.msgpack.Decoder(cls) for cls, number in TYPE_NUMBERS.items()}
)


def encode(message: LinkMessage, max_bytes: int) -> list[bytes]:
    """The two frames of a message.

    Raises ProtocolError if it is over `max_bytes` or holds what msgpack cannot.
    """
    number = TYPE_NUMBERS[type(message)]
    try:
        body = _ENCODER.encode(message)
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError) as error:
        raise ProtocolError(f"a {type(message).__name__} cannot be encoded: {error}") from None
    frames = [bytes((PROTOCOL_VERSION, number)), body]
    _check_size(frames, max_bytes)
    return frames


def decode(frames: Sequence[bytes], max_bytes: int) -> LinkMessage:
    """The message of a peer's frames.

    Raises ProtocolError, in one sentence, for all that is not exactly ours.
    """
    decoder = _check_header(frames)
    _check_size(frames, max_bytes)
    try:
        message: LinkMessage = decoder.decode(frames[1])
    except UnicodeDecodeError:
        raise ProtocolError("message body holds text that is not UTF-8") from None
    except RecursionError:
        raise ProtocolError("message body is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"message body does not fit its type: {_printable(error)}") from None
    return message


def _printable(error: msgspec.MsgspecError) -> str:
    """One line of bounded length: the name of an unknown field is the peer's own text."""
    return "".join(c if c.isprintable() else " " for c in str(error)[:_MAX_PROBLEM])


def _check_header(frames: Sequence[bytes]) -> msgspec.msgpack.Decoder[Any]:
    if len(frames) != _NUM_FRAMES:
        raise ProtocolError(f"message has {len(frames)} frames, must be {_NUM_FRAMES}")
    header = frames[0]
    if len(header) != _HEADER_BYTES:
        raise ProtocolError(f"message header has {len(header)} bytes, must be {_HEADER_BYTES}")
    version, number = header
    if version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"peer speaks link protocol {version}, this side speaks {PROTOCOL_VERSION}: "
            "install the same picert version on both"
        )
    if number not in _DECODERS:
        raise ProtocolError(f"message type {number} is not known in protocol {PROTOCOL_VERSION}")
    return _DECODERS[number]


def _check_size(frames: Sequence[bytes], max_bytes: int) -> None:
    size = sum(map(len, frames))
    if size > max_bytes:
        raise ProtocolError(f"message has {size:,} bytes, the limit is {max_bytes:,}")
