"""What the demo shows: a live screen on a terminal, plain lines anywhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from picert.messages import AnswerEvent, Done, Progress, TextDelta

_TAIL_CHARS = 50  # of an expansion, on the live screen
_FRAME_LINES = 8  # of the live screen, around sketch and answer


@dataclass(slots=True)
class Point:
    """One line of the sketch, and what has become of it."""

    text: str
    edge: str = ""
    expansion: str = ""
    is_done: bool = False


@dataclass(slots=True)
class Board:
    """What has been told about one answer so far."""

    route: str = ""
    points: dict[int, Point] = field(default_factory=dict)
    answer: str = ""

    def take(self, event: AnswerEvent) -> None:
        """Note one event."""
        if isinstance(event, TextDelta):
            self.answer += event.text
        elif isinstance(event, Done):
            self.route = event.route
        elif event.stage == "plan":
            self.route = event.text
        elif event.index is not None:
            self._take_point(event, event.index)

    def _take_point(self, event: Progress, index: int) -> None:
        point = self.points.setdefault(index, Point(""))
        point.edge = event.edge or point.edge
        if event.stage == "sketch":
            point.text = event.text
        elif event.stage == "expand":
            point.expansion += event.text
        elif event.stage == "segment_done":
            point.is_done = True


class View(Protocol):
    """Where the demo shows what goes on."""

    def say(self, line: str) -> None:
        """One line about the demo itself."""
        ...

    def begin(self, title: str) -> None:
        """An answer begins."""
        ...

    def event(self, event: AnswerEvent) -> None:
        """Something happened to it."""
        ...

    def end(self) -> None:
        """It is over."""
        ...

    def rows(self, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A table."""
        ...


def new_view(stream: TextIO) -> View:
    """The view that fits `stream`."""
    console = Console(file=stream, highlight=False)
    return LiveView(console) if console.is_terminal else PlainView(stream)


class PlainView:
    """Lines, each when it is certain: for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board()

    def say(self, line: str) -> None:
        """One line about the demo itself."""
        self._stream.write(line + "\n")
        self._stream.flush()

    def begin(self, title: str) -> None:
        """An answer begins."""
        self._board = Board()
        self.say(f"\n{title}")

    def event(self, event: AnswerEvent) -> None:
        """Something happened to it."""
        self._board.take(event)
        if not isinstance(event, Progress):
            return
        if event.stage == "plan":
            self.say(f"  route: {event.text}")
        elif event.index is not None:
            point = self._board.points[event.index]
            if event.stage == "sketch":
                self.say(f"  sketch {event.index + 1}: {point.text}")
            elif event.stage == "segment_done":
                self.say(f"  {point.edge} wrote {event.index + 1}: {_one_line(point.expansion)}")

    def end(self) -> None:
        """It is over."""
        self.say(f"answer ({self._board.route}):\n{self._board.answer.strip()}")

    def rows(self, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A table."""
        self.say("")
        for row in (header, *rows):
            self.say("  ".join(cell.rjust(14) for cell in row))


class LiveView:
    """A screen that is drawn anew as things happen: for terminals."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._board = Board()
        self._title = ""
        self._live: Live | None = None

    def say(self, line: str) -> None:
        """One line about the demo itself."""
        self._console.print(line, markup=False, style="dim")

    def begin(self, title: str) -> None:
        """An answer begins."""
        self._board, self._title = Board(), title
        self._live = Live(
            self._screen(is_whole=False),
            console=self._console,
            refresh_per_second=8,
            transient=True,
        )
        self._live.start()

    def event(self, event: AnswerEvent) -> None:
        """Something happened to it."""
        self._board.take(event)
        if self._live is not None:
            self._live.update(self._screen(is_whole=False))

    def end(self) -> None:
        """It is over; the whole of it stays on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._console.print(self._screen(is_whole=True))

    def rows(self, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        """A table."""
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def _screen(self, *, is_whole: bool) -> Group:
        """Sketch and answer; while it grows, only as much of the answer's end as fits."""
        board = self._board
        parts: list[Text | Table | Panel] = [Text(self._title, style="bold")]
        if board.points:
            parts.append(self._table(is_whole))
        answer = Text(board.answer.strip())
        if not is_whole:
            room = self._console.height - len(board.points) - _FRAME_LINES
            lines = answer.wrap(self._console, self._console.width - 4)
            answer = Text("\n").join(lines[-max(room, 3) :])
        title = f"answer ({board.route})" if board.route else "answer"
        parts.append(Panel(answer, title=title))
        return Group(*parts)

    def _table(self, is_whole: bool) -> Table:
        table = Table(expand=True, box=box.SIMPLE_HEAD)
        table.add_column("", width=1)
        for name, ratio in (("sketch by the cloud", 3), ("edge", 1), ("expansion", 5)):
            table.add_column(name, ratio=ratio, no_wrap=not is_whole, overflow="fold")
        for _, point in sorted(self._board.points.items()):
            text = _one_line(point.expansion)
            shown = text if is_whole else text[-_TAIL_CHARS:]
            mark = "✓" if point.is_done else "…"
            table.add_row(mark, Text(point.text), Text(point.edge), Text(shown))
        return table


def _one_line(text: str) -> str:
    return " ".join(text.split())
