"""What a run measures: cells, each a mode under a load, over some classes, on some edges; and the
sets of cells that have a name, because a table needs just them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pice.modes import WITH, WITHOUT
from pice.system import Edges, Machines
from picert import hub
from picert.simulate.load import Load
from picert.simulate.questions import (
    CLASSES,
    SUITABLE,
    UNSUITABLE,
    Question,
    name_of,
    pick,
    read_questions,
)

Classes = tuple[str, ...]
_LIGHT, _SATURATED = Load("light"), Load("saturated")
_COMPARED = ("direct", "pice")
_IDLE = ("pice_no_eager_dispatch", "pice_no_ensemble", "pice_no_repair", *WITH)
_SWITCHING = "pice_no_switching"
# In the order of their weight: what --max-minutes ends is the last.
_TARGETS: tuple[tuple[tuple[str, ...], Load, Classes], ...] = (
    (_COMPARED, _SATURATED, SUITABLE),
    (_COMPARED, _LIGHT, SUITABLE),
    (_COMPARED, _SATURATED, CLASSES),
    (_COMPARED, _LIGHT, UNSUITABLE),
    (("router", "sot", "static", "edge_only"), _SATURATED, SUITABLE),
)


@dataclass(frozen=True, slots=True)
class Task:
    """One cell to measure."""

    mode: str
    load: Load
    classes: Classes
    edges: Edges

    def head(self) -> dict[str, object]:
        """What names it in a line of JSON."""
        return {
            "bench": "pice",
            "mode": self.mode,
            "load": self.load.name,
            "classes": name_of(self.classes),
            "edge_models": names_of(self.edges),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """What the run does. Each set of classes has its questions, the same in all of its cells."""

    tasks: tuple[Task, ...]
    questions: Mapping[Classes, tuple[Question, ...]]
    asked: tuple[Question, ...]  # all that the file has, to be scaled down
    machines: Machines
    num_clients: int
    seed: int
    max_minutes: float  # of timed runs

    def of_each_class(self, count: int) -> Plan:
        """The same with `count` questions of each class, or all where there are fewer."""
        fewer = {
            classes: tuple(pick(self.asked, classes, count * len(classes)))
            for classes in self.questions
        }
        return replace(self, questions=MappingProxyType(fewer))

    def asked_of(self, classes: Classes) -> list[Question]:
        """All that the file has of these classes."""
        return pick(self.asked, classes, None)

    @property
    def num_answers(self) -> int:
        """Of all cells, that a judge would see."""
        return sum(len(self.questions[task.classes]) for task in self.tasks)


def target_tasks(edges: Edges) -> list[Task]:
    """The cells that the table of targets rests on."""
    return [Task(mode, load, classes, edges) for modes, load, classes in _TARGETS for mode in modes]


def ablation_tasks(edges: Edges) -> list[Task]:
    """Each part in the situation where it matters: dispatch, candidates, check and repair with an
    idle system, switching where one edge holds all models, the others with a full system."""
    both = (tuple(dict.fromkeys(model for edge in edges for model in edge)),)
    others = tuple(mode for mode in WITHOUT if mode not in (*_IDLE, _SWITCHING))
    situations = (
        (_IDLE, _LIGHT, edges),
        (others, _SATURATED, edges),
        ((_SWITCHING,), _SATURATED, both),
    )
    return [
        Task(mode, load, SUITABLE, on)
        for modes, load, on in situations
        for mode in ("pice", *modes)
    ]


def plan_of(args: argparse.Namespace) -> Plan:
    """Raises PicertError for a model that is not here, ValueError for questions that are wrong."""
    edges = edges_of(args.edge_models)
    for model in (args.cloud_model, *(model for edge in edges for model in edge)):
        hub.find(model)
    tasks = tuple(_tasks(args, edges))
    asked = read_questions(args.questions)
    questions = {
        classes: tuple(pick(asked, classes, args.max_questions))
        for classes in dict.fromkeys(task.classes for task in tasks)
    }
    if empty := [classes for classes, found in questions.items() if not found]:
        raise ValueError(f"{args.questions} has no question of {', '.join(empty[0])}")
    return Plan(
        tasks=tasks,
        questions=MappingProxyType(questions),
        asked=tuple(asked),
        machines=Machines(
            cloud_model=args.cloud_model,
            edges=edges,
            cpus_cloud=args.cpus_cloud,
            cpus_edge=args.cpus_edge,
            max_tokens=args.max_tokens,
            deadline_s=args.deadline_s,
            link_delay_s=args.link_rtt_ms / 2000,
            cloud_flags=tuple(args.cloud_flags),
            edge_flags=tuple(args.edge_flags),
        ),
        num_clients=args.clients,
        seed=args.seed,
        max_minutes=args.max_minutes,
    )


def edges_of(text: str) -> Edges:
    """Commas between edges, a plus between the models of one."""
    return tuple(tuple(edge.split("+")) for edge in text.split(",") if edge)


def names_of(edges: Edges) -> list[str]:
    """The inverse of `edges_of`, edge by edge."""
    return ["+".join(models) for models in edges]


def _tasks(args: argparse.Namespace, edges: Edges) -> Iterable[Task]:
    """Each cell once, whatever asks for it."""
    if args.targets or args.ablations:
        wanted = target_tasks(edges) if args.targets else []
        return dict.fromkeys([*wanted, *(ablation_tasks(edges) if args.ablations else ())])
    return _product(args.modes, args.load, args.classes, edges)


def _product(
    modes: Sequence[str], loads: Sequence[Load], classes: Classes, edges: Edges
) -> Iterable[Task]:
    """Every mode under every load. Poisson loads need direct's saturated rate first."""
    tasks = [Task(mode, load, classes, edges) for load in loads for mode in modes]
    if not any(load.is_poisson for load in loads):
        return dict.fromkeys(tasks)
    return dict.fromkeys([Task("direct", _SATURATED, classes, edges), *tasks])
