"""The page is made of whatever lines there are; nothing in them can break out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from picert.cli import main
from picert.errors import ConfigError
from picert.report.ablations import ablations
from picert.report.bootstrap import difference_of_means, ratio_of_medians, ratio_of_rates
from picert.report.page import page
from picert.report.plots import plots_of
from picert.report.rows import Row, modes_of, on_one_system, read_rows, told_apart
from picert.report.targets import Target, targets

SCORES = {"direct": 70.0, "router": 60.0, "sot": 68.0, "static": 66.0, "pice": 67.0}
RATES = {"direct": 10.0, "router": 50.0, "sot": 12.0, "static": 20.0, "pice": 30.0}


def line(
    mode: str, load: str = "saturated", classes: str = "suitable", **more: Any
) -> dict[str, Any]:
    score = SCORES.get(mode, 65.0)
    interval = {"mean": score, "low": score - 3, "high": score + 3, "n": 40}
    return {
        "bench": "pice",
        "mode": mode,
        "load": load,
        "classes": classes,
        "requests_per_min": RATES.get(mode, 25.0),
        "latency_p50_ms": 1000.0 if mode == "direct" else 400.0,
        "latency_p95_ms": 2000.0,
        "first_text_p50_ms": 150.0,
        "checklist_score": interval,
        "by_class": {"generic": {"checklist_score": interval}},
        **more,
    }


def rows(*lines: dict[str, Any]) -> list[Row]:
    return [Row(fields) for fields in lines]


def write(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def by_name(found: Sequence[Target], start: str) -> Target:
    [target] = [target for target in found if target.name.startswith(start)]
    return target


def whole() -> list[Row]:
    return rows(
        *(line(mode) for mode in SCORES),
        *(line(mode, "light") for mode in ("direct", "pice")),
        line("pice_no_grouping"),
    )


def test_later_line_of_a_cell_wins_and_other_benchmarks_are_left_out(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [line("pice"), {"bench": "engine"}, "", 3])
    second = write(tmp_path / "b", [line("pice", requests_per_min=99.0)])
    [row] = read_rows([first, second])
    assert row.number("requests_per_min") == 99.0


def test_scores_in_lines_of_their_own_are_put_to_their_cell(tmp_path: Path) -> None:
    speed = line("pice", checklist_score=None, missing={"checklist_score": "none", "x": "why"})
    quality = {
        **{name: line("pice")[name] for name in ("bench", "mode", "load", "classes")},
        **{"of": "quality", "checklist_score": {"mean": 50.0}, "missing": {"pairwise": "no"}},
    }
    for lines in ([speed, quality], [quality, speed]):
        [row] = read_rows([write(tmp_path / "rows", lines)])
        assert row.number("requests_per_min") == RATES["pice"]
        assert row.number("checklist_score", "mean") == 50.0
        assert row.table("missing") == {"x": "why", "pairwise": "no"}
    [alone] = read_rows([write(tmp_path / "rows", [quality])])
    assert alone.number("checklist_score", "mean") == 50.0


def test_cells_on_other_edges_are_other_cells(tmp_path: Path) -> None:
    cells = [line("pice", edge_models=["a", "b"]), line("pice", edge_models=["a+b"])]
    found = read_rows([write(tmp_path / "rows", [*cells, line("direct", edge_models=["a", "b"])])])
    assert [row.edges for row in on_one_system(found)] == [("a", "b"), ("a", "b")]


def test_simulated_rows_that_differ_in_edges_delay_or_seed_are_all_kept(tmp_path: Path) -> None:
    def simulated(**more: Any) -> dict[str, Any]:
        same = {"edges": 10, "link_rtt_ms": 0.0, "seed": 0, "edge_models": ["small"]}
        return {**line("pice"), "bench": "simulate", **same, **more}

    cells = [simulated(), simulated(edges=100), simulated(link_rtt_ms=50.0), simulated(seed=1)]
    again = simulated(edges=100, requests_per_min=7.0)
    found = read_rows([write(tmp_path / "rows", [*cells, again])])
    assert [row.number("requests_per_min") for row in found].count(7.0) == 1
    assert sorted(told_apart(found).values()) == [
        "edges 10, link_rtt_ms 0.0, seed 0",
        "edges 10, link_rtt_ms 0.0, seed 1",
        "edges 10, link_rtt_ms 50.0, seed 0",
        "edges 100, link_rtt_ms 0.0, seed 0",
    ]
    text = page(found, [], plots_of(found))
    assert all(words in text for words in told_apart(found).values())


def test_measured_rows_are_compared_before_simulated_ones_however_many() -> None:
    simulated = [{**line(mode), "bench": "simulate", "edges": 1} for mode in SCORES]
    measured = [line("direct"), line("pice")]
    found = rows(*simulated, *measured)
    assert on_one_system(found) == found[-2:]
    assert on_one_system([]) == []


def test_scores_in_lines_of_their_own_go_to_the_last_cell_of_their_place(tmp_path: Path) -> None:
    near, far = line("pice", link_rtt_ms=0.0), line("pice", link_rtt_ms=50.0)
    quality = {**line("pice"), "of": "quality", "checklist_score": {"mean": 50.0}}
    found = read_rows([write(tmp_path / "rows", [quality, far, near])])
    scores = {row.fields["link_rtt_ms"]: row.number("checklist_score", "mean") for row in found}
    assert scores == {50.0: SCORES["pice"], 0.0: 50.0}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["{"], "line 1 is not JSON"),
        ([{"bench": "pice", "mode": "pice"}], "line 1 has no 'load'"),
        ([{"bench": "engine"}], "no line of bench_pice.py"),
    ],
)
def test_file_that_is_no_benchmark_is_refused(
    lines: list[object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_rows([write(tmp_path / "a", lines)])
    with pytest.raises(ConfigError, match="nowhere"):
        read_rows([tmp_path / "nowhere"])


def test_figure_that_is_missing_or_no_number_is_none() -> None:
    row = Row({"bench": "pice", "a": {"b": None, "c": True, "d": "1"}, "e": 2})
    assert [row.number(*path) for path in (("a", "b"), ("a", "c"), ("a", "d"), ("x", "y"))] == (
        [None] * 4
    )
    assert row.number("e") == 2.0


def test_modes_stand_in_order_of_the_baselines() -> None:
    found = rows(line("pice_no_lists"), line("pice"), line("static"), line("direct"))
    assert modes_of(found) == ["direct", "static", "pice", "pice_no_lists"]


def test_targets_compare_pice_with_direct_and_with_the_best_of_equal_quality() -> None:
    found = targets(whole())
    fast = by_name(found, "requests a minute, saturated, suitable classes, of pice")
    assert (fast.measured, fast.is_met) == ("3.00x", True)
    best = by_name(found, "requests a minute, saturated, suitable classes, against the best")
    assert (best.measured, best.is_met) == ("1.50x of static", True)
    assert by_name(found, "p50 latency, light load, suitable").measured == "0.40x"
    score = by_name(found, "checklist score")
    others = "router 60.0, sot 68.0, static 66.0"
    told = f"67.0 against 70.0, load saturated, {others}"
    assert (score.measured, score.is_met) == (told, True)


def test_targets_say_how_sure_they_are_where_single_answers_are_told() -> None:
    def told(scale: float) -> dict[str, Any]:
        values = {f"q{n}": scale * (90 + n) for n in range(20)}
        return {
            **{"rate_latencies_ms": list(values.values()), "latency_ms_of": values},
            "score_of": {name: value / scale - 50 * scale for name, value in values.items()},
        }

    found = targets(
        rows(
            *(line("direct", load, **told(1.0)) for load in ("saturated", "light")),
            *(line("pice", load, **told(0.4)) for load in ("saturated", "light")),
        )
    )
    rate = by_name(found, "requests a minute, saturated, suitable classes, of pice").measured
    low, high = (float(bound) for bound in rate.partition("[")[2].rstrip("]").split(", "))
    assert 2.3 < low < 2.5 < high < 2.7
    assert by_name(found, "p50 latency, light load, suitable").measured == "0.40x [0.40, 0.40]"
    assert "67.0 against 70.0 [30.00, 30.00]" in by_name(found, "checklist score").measured


@pytest.mark.parametrize(
    "bounds",
    [
        ratio_of_medians({"a": 1.0}, {"a": 2.0}),
        difference_of_means({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, {"e": 1.0}),
        ratio_of_rates([0.0] * 9, [1.0] * 9),
        ratio_of_rates([], []),
    ],
)
def test_figures_that_say_nothing_have_no_interval(bounds: object) -> None:
    assert bounds is None


def test_ablations_stand_beside_their_whole_on_the_same_edges_and_load() -> None:
    one, both = ["a", "b"], ["a+b"]
    found = ablations(
        rows(
            line("pice", edge_models=one, requests_per_min=30.0, repairs=4),
            line("pice_no_lists", edge_models=one, requests_per_min=20.0, repairs=1),
            line("pice", edge_models=both, requests_per_min=40.0),
            line("pice_no_switching", edge_models=both, requests_per_min=50.0),
            line("pice_no_repair", "light", edge_models=one),
        )
    )
    assert [(a.part, a.situation) for a in found] == [
        ("lists", "saturated, a b"),
        ("switching", "saturated, a+b"),
    ]
    assert found[0].cells()[3] == "1.50x"
    assert found[0].cells()[-2:] == ("+2.0", "4 against 1")
    assert found[1].cells()[3] == "0.80x"
    assert found[1].cells()[-1] == "none"


def test_a_part_that_is_off_by_default_stands_with_pice_as_what_is_without_it() -> None:
    found = rows(
        line("pice", "light", latency_p50_ms=400.0),
        line("pice_with_cloud_check", "light", latency_p50_ms=600.0),
    )
    [ablation] = ablations(found)
    assert ablation.part == "cloud_check"
    assert ablation.cells()[4] == "1.50x"
    titles = [plot.title.partition(" (")[0] for plot in plots_of(found)]
    assert titles.count("Ablations") == 1


def test_target_without_its_cells_is_not_measured() -> None:
    found = targets(rows(line("pice"), {**line("direct"), "skipped": "no time"}))
    assert {target.is_met for target in found} == {None}
    assert {target.measured for target in found} == {"not measured"}


def test_target_that_is_missed_says_so() -> None:
    slow = line("pice", requests_per_min=11.0, checklist_score={"mean": 50.0})
    found = targets(rows(line("direct"), slow))
    assert by_name(found, "requests a minute, saturated, suitable classes, of pice").is_met is False
    assert by_name(found, "checklist score").is_met is False


def test_every_plot_is_drawn_of_whole_data() -> None:
    titles = [plot.title.partition(" (")[0] for plot in plots_of(whole())]
    assert titles == [
        "Throughput when saturated",
        "Latency against load",
        "Crossover",
        "Quality by class",
        "Ablations",
    ]


def test_data_without_figures_has_no_plots() -> None:
    bare = {"bench": "pice", "mode": "pice", "load": "0.8", "classes": "all"}
    assert plots_of(rows(bare, {**line("direct"), "skipped": "x"})) == []


class Tags(HTMLParser):
    """The tags and sources of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_page_holds_all_it_needs_and_escapes_what_it_shows() -> None:
    evil = "<script>alert(1)</script>"
    hostile = rows(
        line(
            evil, "light", errors={evil: 2}, missing={"x": evil}, routes={evil: 1.0}, machine=evil
        ),
        {**line("pice", "light", evil), "skipped": evil},
    )
    text = page([*whole(), *hostile], targets(whole()), plots_of([*whole(), *hostile]))
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.names
    assert text.count("&lt;script&gt;") >= 7
    assert tags.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in tags.sources)


def test_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "rows.jsonl", [line(mode) for mode in SCORES])
    out = tmp_path / "page.html"
    assert main(["report", str(data), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_command_refuses_a_place_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", [line("pice")])
    assert main(["report", str(data), "--out", str(tmp_path / "no" / "page.html")]) == 2
    assert "give another --out" in capsys.readouterr().err
