"""What the demo shows of scripted events, on a terminal and in a log."""

from __future__ import annotations

import io

from rich.console import Console
from scripted_service import DONE, plan, text

from picert.commands.demo_view import Board, LiveView, PlainView, new_view
from picert.messages import AnswerEvent, Progress


def note(stage: str, index: int, **fields: object) -> Progress:
    return Progress(request_id="", stage=stage, index=index, **fields)  # type: ignore[arg-type]


EVENTS: list[AnswerEvent] = [
    plan(),
    note("sketch", 0, text="Walk"),
    note("sketch", 1, text="Rest"),
    note("expand", 1, edge="b", text="Rest [bold]well[/bold].\n"),
    note("expand", 0, edge="a", text="Walk far."),
    note("segment_done", 1, edge="b", done=1, total=2),
    text("Walk far. "),
    text("Rest [bold]well[/bold]."),
    DONE,
]


def test_board_knows_who_wrote_what() -> None:
    board = Board()
    for event in EVENTS:
        board.take(event)
    assert [(p.text, p.edge, p.is_done) for _, p in sorted(board.points.items())] == [
        ("Walk", "a", False),
        ("Rest", "b", True),
    ]
    assert board.points[0].expansion == "Walk far."
    assert board.answer == "Walk far. Rest [bold]well[/bold]."
    assert board.route == "sketch"


def test_repair_by_the_cloud_shows_the_cloud_as_writer() -> None:
    board = Board()
    for event in [*EVENTS[:3], note("repair", 0, edge="cloud")]:
        board.take(event)
    assert board.points[0].edge == "cloud"


def test_log_gets_plain_lines_in_the_order_of_events() -> None:
    stream = io.StringIO()
    view = new_view(stream)
    assert isinstance(view, PlainView)
    view.begin("How?")
    for event in EVENTS:
        view.event(event)
    view.end()
    assert stream.getvalue().splitlines() == [
        "",
        "How?",
        "  route: sketch",
        "  sketch 1: Walk",
        "  sketch 2: Rest",
        "  b wrote 2: Rest [bold]well[/bold].",
        "answer (sketch):",
        "Walk far. Rest [bold]well[/bold].",
    ]


def test_terminal_shows_text_as_it_is_and_the_whole_answer_at_the_end() -> None:
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=80, height=14))
    view.begin("How?")
    for event in [*EVENTS[:-1], text("\nline" * 40), DONE]:
        view.event(event)
    before_end = len(stream.getvalue())
    view.end()
    assert "[bold]well[/bold]" in stream.getvalue()
    assert stream.getvalue()[before_end:].count("line") >= 40


def test_live_screen_stays_within_the_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=20)
    view = LiveView(console)
    view.begin("How?")
    for event in [*EVENTS[:-1], text("a word " * 500)]:
        view.event(event)
    drawn = console.render_lines(view._screen(is_whole=False))
    view.end()
    assert len(drawn) <= 20
