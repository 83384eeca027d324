"""Every wait has a deadline, or stands in a table here with the reason why it needs none.

What is looked for are calls that wait for others: events, queues, locks, threads, processes,
sockets, HTTP. To wait for coroutines and tasks of our own (`await`, `asyncio.gather`) is the sum of
such waits. A deadline is a timeout among the call's arguments, or `within` around it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("picert", "models", "kernels")
TIMEOUT_AT = {"wait": 0, "join": 0, "acquire": 1, "poll": 0, "get": 0}  # its place, if not by name
READS = {
    *("recv", "recv_multipart", "recv_string", "recv_json", "recv_monitor_message", "accept"),
    *("read", "readline", "readexactly", "readuntil", "communicate", "wait_closed", "getresponse"),
}
CONNECTS = {
    *("httpx.Client", "httpx.AsyncClient", "asyncio.open_connection", "socket.create_connection"),
    *("urllib.request.urlopen", "urlopen", "HTTPConnection", "HTTPSConnection"),
    *("subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output"),
}
BOUNDS = {"within", "wait_for"}

STOP = "the process serves until it is told to stop"
READER = "a reader's loop: it waits for whatever comes next, and ends when its task is cancelled"
OURS = "tasks of our own, each of which has its own deadlines or is cancelled"
QUEUE = "a timer puts the end into the queue at the deadline"
IDLE = "an engine without work sleeps until it gets some"
BELOW = "it is awaited `within` some seconds a line below"
VIRTUAL = "virtual time: where nothing can happen any more, the loop says so"
ALLOWED: dict[tuple[str, str], str] = {
    ("picert/cloud/assignment.py", "self._inbox.get()"): QUEUE,
    ("picert/cloud/draft.py", "self._outbox.get()"): QUEUE,
    ("picert/cloud/feed.py", "asyncio.wait({working, leaving})"): (
        "one of them is the answer, which has its deadline"
    ),
    ("picert/cloud/health.py", "told.wait()"): STOP,
    ("picert/cloud/race.py", "self._at_front.wait()"): OURS,
    ("picert/cloud/server.py", "stop.wait()"): STOP,
    ("picert/commands/demo.py", "asyncio.wait({asking, dying})"): OURS,
    ("picert/commands/processes.py", "stop.wait()"): STOP,
    ("picert/commands/processes.py", "asyncio.wait({working, stopping})"): OURS,
    ("picert/commands/processes.py", "asyncio.wait(waiting)"): (
        "a watch on children; whoever works beside it cancels it"
    ),
    ("picert/edge/main.py", "change.wait()"): "a load that has begun is a thread, which must end",
    ("picert/edge/main.py", "stop.wait()"): STOP,
    ("picert/edge/main.py", "asyncio.wait({work, stopping})"): STOP,
    ("picert/edge/worker.py", "asyncio.wait([before])"): OURS,
    ("picert/engine/loop.py", "self._arrived.wait()"): (
        "the engine ends every stream, in time where its terms have a deadline, or when it fails"
    ),
    ("picert/engine/loop.py", "self._wake.wait()"): IDLE,
    ("picert/patience.py", "asyncio.wait({task})"): "the task was cancelled a line before",
    ("picert/simulate/engine.py", "text.items.get()"): VIRTUAL,
    ("picert/simulate/link.py", "self._events.get()"): VIRTUAL,
    ("picert/simulate/load.py", "all_counted.wait()"): VIRTUAL,
    ("picert/simulate/load.py", "asyncio.wait([finished, *clients])"): VIRTUAL,
    ("picert/transport/doctor.py", "asyncio.open_connection(*place)"): BELOW,
    ("picert/transport/gate.py", "socket.recv_multipart()"): READER,
    ("picert/transport/handshake.py", "recv_monitor_message(self._monitor)"): READER,
    ("picert/transport/inbox.py", "self._has_items.wait()"): READER,
    ("picert/transport/inbox.py", "self._has_room.wait()"): (
        "a full queue stops its reader, not its sender's peer, until it is read or closed"
    ),
    ("picert/transport/peer_link.py", "self._linked.wait()"): "whoever greets does so `within`",
    ("picert/transport/peer_link.py", "asyncio.wait([sent])"): (
        "the socket is closed, which cancels it, when the cloud is silent too long"
    ),
    ("picert/transport/peer_link.py", "asyncio.wait(tasks)"): (
        "one of them counts the heartbeats that are missed"
    ),
    ("picert/transport/peer_link.py", "socket.recv_multipart()"): READER,
    ("picert/transport/server_link.py", "socket.recv_multipart(copy=False)"): READER,
    ("picert/transport/server_link.py", "socket.recv_multipart()"): READER,
}


def waits(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that may wait without end."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    bounds = [call for call in calls if _name(call) in BOUNDS and len(call.args) > 1]
    bounded = {id(inner) for call in bounds for inner in ast.walk(call)}
    yield from (call for call in calls if id(call) not in bounded and _may_wait(call))


def _may_wait(call: ast.Call) -> bool:
    name, whole = _name(call), ast.unparse(call.func)
    if any(word.arg in (None, "timeout") for word in call.keywords):
        return False  # given, or among what **settings gives
    if whole in CONNECTS:
        return True
    if name in TIMEOUT_AT and isinstance(call.func, ast.Attribute):
        is_of_tasks = whole == "asyncio.wait"  # takes them first, and its timeout by name alone
        return is_of_tasks or len(call.args) <= TIMEOUT_AT[name]
    is_of_file = name in {"read", "readline"} and ".std" not in whole  # which waits for nobody
    return name in READS and not is_of_file


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).split(".")[-1]


def found() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            for call in waits(ast.parse(file.read_text(encoding="utf-8"))):
                for word in [word for word in call.keywords if word.arg == "return_when"]:
                    call.keywords.remove(word)  # no matter here
                yield path, ast.unparse(call)


def test_every_wait_has_a_deadline_or_a_reason() -> None:
    assert not set(found()) - ALLOWED.keys()


def test_table_of_reasons_has_no_stale_rows() -> None:
    assert not ALLOWED.keys() - set(found())


@pytest.mark.parametrize(
    "line",
    [
        *("event.wait()", "await event.wait()", "asyncio.create_task(event.wait())"),
        *("await queue.get()", "thread.join()", "lock.acquire()", "await asyncio.wait(tasks)"),
        *("await within(event.wait())", "await socket.recv_multipart()", "subprocess.run(argv)"),
        *("httpx.AsyncClient(base_url=url)", "await process.communicate()", "connection.accept()"),
        *("await process.stdout.readline()", "asyncio.open_connection(host, port)"),
    ],
)
def test_wait_without_a_deadline_is_found(line: str) -> None:
    assert len(list(waits(parsed(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        *("event.wait(5.0)", "await within(5.0, event.wait())", "await asyncio.wait(t, timeout=s)"),
        *("asyncio.wait_for(queue.get(), 1)", "', '.join(words)", "table.get(key)", "file.read()"),
        *("thread.join(5.0)", "httpx.Client(**settings)", "subprocess.run(argv, timeout=9)"),
    ],
)
def test_wait_with_a_deadline_is_not_found(line: str) -> None:
    assert not list(waits(parsed(line)))


def parsed(line: str) -> ast.Module:
    return ast.parse(f"async def f():\n    {line}")
