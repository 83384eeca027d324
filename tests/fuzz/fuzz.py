"""Mutated inputs against everything that reads what others wrote.

    python tests/fuzz/fuzz.py --inputs 1000000
    python tests/fuzz/fuzz.py --targets gguf,template --inputs 10000 --seed 3

Each target takes sound inputs, damages them, and knows the few ways in which a damaged one may end.
An input that ends otherwise, takes over a second of the processor or asks for over 256 MB of memory
is a find: it is printed whole, and repeated by its seed and number. Both limits are the kernel's, a
timer and a bound of the process's data, so a loop without end and memory that is asked for but
never touched are found too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import link_messages
import msgspec
import tiny_models
from http_door import ANSWER, QUESTION, URL, door
from scripted_service import ScriptedService

from picert.errors import InvalidRequest, ModelError, ProtocolError
from picert.messages import ChatMessage
from picert.models.chat_template import ChatTemplate
from picert.models.gguf_header import read_header
from picert.models.safetensors import read_folder
from picert.transport.codec import decode, encode

LIMIT_S = 1.0  # of the processor: a busy machine is not a fault
LIMIT_MEMORY = 256 << 20  # on top of what the process has before the first input
LIMIT_BYTES = 1 << 20  # of a frame
NASTY = tuple(n.to_bytes(8, "little") for n in (0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1))
NAMES = ("codec", "gguf", "safetensors", "template", "http")
TEMPLATE_WORDS = (
    *("{{ messages }}", "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{% if m %}"),
    *("{% endif %}", "{% set x = 'ab' %}", "{% set x = x + x %}", "{{ x }}", "{{ x * 9999 }}"),
    *("{{ loop.index }}", "{{ raise_exception('no') }}", "{% macro f(n) %}", "{% endmacro %}"),
    *("{{ f(3) }}", "{{ range(9**9) }}", "{{ x | join }}", "{{ ''.__class__ }}", "{{ x.format }}"),
    *("{{ x | tojson }}", "{{ messages | map('upper') | list }}", "{{ strftime_now('%Y') }}", "\n"),
)


@dataclass(frozen=True)
class Target:
    """Something that reads; `read` raises for what must not happen."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes], None]


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """A sound input after one to four accidents."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 9))
        elif kind == 2:
            del data[at : at + rng.randint(1, 9)]
        elif kind == 3:
            data[at : at + 8] = rng.choice(NASTY)
        elif kind == 4:
            begin = rng.randrange(len(data) + 1)
            data[at:at] = data[begin : begin + rng.randint(1, 40)]
        else:
            del data[at:]
    return bytes(data)


def check_words(message: str, max_len: int) -> None:
    """A refusal is one line for a person."""
    assert "\n" not in message
    assert len(message) < max_len


# --- targets --------------------------------------------------------------------------------------


def codec() -> Target:
    """Frames of the link: a header, then a body."""

    def read(data: bytes) -> None:
        try:
            message = decode([data[:2], data[2:]], LIMIT_BYTES)
        except ProtocolError as error:
            check_words(error.message, 500)
        else:
            assert decode(encode(message, LIMIT_BYTES), LIMIT_BYTES) == message

    return Target("codec", [b"".join(encode(m, LIMIT_BYTES)) for m in link_messages.ALL], read)


def gguf(folder: Path) -> Target:
    """Headers of GGUF files."""
    path = tiny_models.make_gguf(folder, "llama", "Q8_0")
    whole = path.read_bytes()
    with mmap.mmap(-1, len(whole)) as view:
        view[:] = whole
        size = read_header(view, "sound").num_bytes
    rest = len(whole) - size

    def read(data: bytes) -> None:
        with mmap.mmap(-1, max(1, len(data) + rest)) as view:
            view[: len(data)] = data
            try:
                read_header(view, "damaged")
            except ModelError as error:
                check_words(error.message, 1000)

    return Target("gguf", [whole[:size]], read)


def safetensors(folder: Path) -> Target:
    """Headers of safetensors files, beside a sound config."""
    model = tiny_models.make_safetensors(folder, "llama")
    path = model / "model.safetensors"
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")

    def read(data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data)
            file.truncate(len(data) + len(whole) - size)  # the tensors, sparse
        try:
            read_folder(model)
        except ModelError as error:
            check_words(error.message, 1000)

    return Target("safetensors", [whole[:size]], read)


def template() -> Target:
    """Chat templates, shuffled from pieces of the language and then damaged."""
    rng = random.Random(0)
    pieces = [rng.choices(TEMPLATE_WORDS, k=rng.randint(1, 12)) for _ in range(200)]
    said = [ChatMessage("user", "hi"), ChatMessage("assistant", "ho")]

    def read(data: bytes) -> None:
        source = data.decode("utf-8", "replace")
        try:
            ChatTemplate(source, {"bos_token": "<s>"}, {"<s>": 1}).render(said)
        except (ModelError, InvalidRequest) as error:
            check_words(error.message, 1000)

    return Target("template", ["".join(words).encode() for words in pieces], read)


def http() -> Target:
    """Bodies of chat requests, through the whole front door."""
    body = {
        "messages": QUESTION,
        "stream": False,
        "temperature": 0.5,
        "max_tokens": 16,
        "stop": ["a", "b"],
        "logit_bias": {"1": -5},
        "seed": 7,
        "n": 1,
        "user": "u",
        "picert": {"route": "auto", "deadline_ms": 1000, "explain": True},
    }

    async def transport() -> httpx.AsyncBaseTransport:
        async with door(ScriptedService(ANSWER)) as client:
            return client._transport

    async def ask(data: bytes) -> httpx.Response:
        kind = {"content-type": "application/json"}
        async with httpx.AsyncClient(transport=front, base_url="http://cloud") as client:
            return await client.post(URL, content=data, headers=kind)

    front = asyncio.run(transport())

    def read(data: bytes) -> None:
        response = asyncio.run(ask(data))
        if response.status_code != 200:
            assert 400 <= response.status_code < 500, response.text
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}

    return Target("http", [json.dumps(body).encode(), msgspec.json.encode({"messages": []})], read)


# --- the command ----------------------------------------------------------------------------------


class TookTooLong(BaseException):
    """An input had its second. No reader's own `except` takes it for an error."""


def fuzz(target: Target, num_inputs: int, seed: int) -> str | None:
    """Try so many inputs; the first find in words, None if there is none."""
    with bounded():
        for number in range(num_inputs):
            rng = random.Random(f"{seed} {target.name} {number}")
            data = damaged(rng.choice(target.seeds), rng)
            if problem := problem_of(target, data):
                return f"{target.name}, seed {seed}, input {number}: {problem}\n{data!r}"
    return None


def problem_of(target: Target, data: bytes) -> str | None:
    """What must not happen, if this input makes it happen; to be called within `bounded`."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        target.read(data)
    except TookTooLong:
        return f"no end within {LIMIT_S:g} s"
    except Exception as error:  # whatever a reader lets out is what is looked for
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    return None


@contextmanager
def bounded() -> Iterator[None]:
    """Within, memory beyond the limit is refused (MemoryError), and the timer ends what it meets.

    NOTE: the bound is of all private memory (RLIMIT_DATA), so that of an input that frees what it
    took and takes it again is counted once.
    """

    def expire(*_: object) -> None:
        raise TookTooLong

    before, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGPROF)
    signal.signal(signal.SIGPROF, expire)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + LIMIT_MEMORY, before[1]))
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    found = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def targets(folder: Path) -> dict[str, Callable[[], Target]]:
    """Everything that is tried, each made when it is."""
    return {
        "codec": codec,
        "gguf": lambda: gguf(folder),
        "safetensors": lambda: safetensors(folder),
        "template": template,
        "http": http,
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line: of this file, and of those that try its targets in other ways."""
    line = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--targets", default=",".join(NAMES), help="(default: %(default)s)")
    line.add_argument("--inputs", type=int, default=1_000_000, help="of each target")
    line.add_argument("--seed", type=int, default=1)
    return line


def main() -> int:
    """Try all that is asked for; 1 if there was a find."""
    given = parser(__doc__).parse_args()
    finds = 0
    with tempfile.TemporaryDirectory() as folder:
        makers = targets(Path(folder))
        for name in given.targets.split(","):
            began = time.monotonic()
            find = fuzz(makers[name](), given.inputs, given.seed)
            finds += find is not None
            outcome = find or f"{name}: {given.inputs:,} inputs, no find"
            sys.stdout.write(f"{outcome}, {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
