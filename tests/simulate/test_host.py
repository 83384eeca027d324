"""Engines on one host share it; a run's end moves when others come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from picert.simulate.clock import run
from picert.simulate.host import Chores, Host


def ends(begin: Callable[[Host, Callable[[str], Callable[[], None]]], None]) -> dict[str, float]:
    """When each named run ended."""

    async def main() -> dict[str, float]:
        loop, found = asyncio.get_running_loop(), {}

        def mark(name: str) -> Callable[[], None]:
            return lambda: found.update({name: round(loop.time(), 6)})

        begin(Host(loop), mark)
        await asyncio.sleep(100)
        return found

    return run(main)


def test_one_run_takes_its_seconds() -> None:
    assert ends(lambda host, mark: host.begin(3.0, mark("a")) and None) == {"a": 3.0}


def test_two_runs_share_until_the_shorter_ends() -> None:
    def begin(host: Host, mark: Callable[[str], Callable[[], None]]) -> None:
        host.begin(1.0, mark("a"))
        host.begin(3.0, mark("b"))

    assert ends(begin) == {"a": 2.0, "b": 4.0}


def test_a_run_that_comes_later_slows_the_first_from_then_on() -> None:
    def begin(host: Host, mark: Callable[[str], Callable[[], None]]) -> None:
        host.begin(2.0, mark("a"))
        asyncio.get_running_loop().call_later(1.0, host.begin, 5.0, mark("b"))

    assert ends(begin) == {"a": 3.0, "b": 7.0}


def test_a_stopped_run_does_not_end_and_leaves_its_share() -> None:
    def begin(host: Host, mark: Callable[[str], Callable[[], None]]) -> None:
        host.begin(2.0, mark("a"))
        other = host.begin(9.0, mark("b"))
        asyncio.get_running_loop().call_later(1.0, host.stop, other)

    assert ends(begin) == {"a": 2.5}


def test_a_run_may_be_shortened_but_not_below_what_is_done() -> None:
    def begin(host: Host, mark: Callable[[str], Callable[[], None]]) -> None:
        long = host.begin(9.0, mark("a"))
        asyncio.get_running_loop().call_later(4.0, host.shorten, long, 1.0)

    assert ends(begin) == {"a": 4.0}


def test_two_cores_run_two_at_full_speed() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        host, over = Host(loop, cores=2), asyncio.Event()
        host.begin(5.0, lambda: None)
        host.begin(5.0, over.set)
        await over.wait()
        return loop.time()

    assert run(main) == pytest.approx(5.0)


def test_chores_are_done_one_after_the_other_beside_a_run() -> None:
    def begin(host: Host, mark: Callable[[str], Callable[[], None]]) -> None:
        host.begin(2.0, mark("engine"))
        chores = Chores(host)
        chores.add(0.5, mark("first"))
        chores.add(0.5, mark("second"))

    assert ends(begin) == {"first": 1.0, "second": 2.0, "engine": 3.0}
