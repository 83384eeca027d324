"""Published numbers become speeds by a roofline; every number names its source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from picert.errors import ConfigError, ModelNotFound
from picert.pice.profile_file import ModelProfile, ProfileFile
from picert.simulate.machines import OWN_FILE, Fleet, derived_profile, read_machines
from picert.simulate.questions import CLASSES
from picert.simulate.workload import OWN_FILE as OWN_WORKLOAD
from picert.simulate.workload import Lengths, Workload, Writing, read_workload

OWN = read_machines(OWN_FILE)


def test_every_published_number_has_a_source() -> None:
    tables = (*OWN.machines.values(), *OWN.models.values(), OWN.shares)
    numbers = [getattr(table, name) for table in tables for name in table.__struct_fields__]
    assert [n for n in numbers if len(n.source) < 8 or n.value <= 0] == []


def test_a_step_alone_reads_all_weights_once() -> None:
    model, machine = OWN.models["llama-3.1-8b-fp16"], OWN.machines["orin-agx-64gb"]
    speed = derived_profile("m", model, machine, OWN.shares).speed()
    weights_s = 16.06e9 / (0.6 * 204.8e9)
    assert speed.decode_seconds(1, 1, 64) == pytest.approx(weights_s, rel=0.02)
    assert speed.decode_seconds(1, 16, 64) < 2 * weights_s
    assert speed.prefill_seconds(2048) > speed.prefill_seconds(512)


def test_models_that_do_not_fit_and_names_that_are_unknown_are_refused() -> None:
    fleet = Fleet(ProfileFile(), OWN)
    assert fleet.runs("qwen2.5-1.5b-fp16@rtx-4090").limits.max_num_seqs == 32
    with pytest.raises(ConfigError, match="no room"):
        fleet.runs("llama-3.1-70b-fp8@rtx-4090")
    with pytest.raises(ModelNotFound, match="h100-sxm"):
        fleet.runs("llama-3.1-70b-fp8")


def test_a_measured_model_is_what_its_profile_says_and_may_be_believed_otherwise() -> None:
    def profile(step_s: float) -> ProfileFile:
        of = ModelProfile(
            model="m",
            threads=1,
            load_s=0.0,
            prefill=((32, 1, 0.1),),
            decode=((1, 64, step_s),),
        )
        return ProfileFile(models={"hash": of})

    runs = Fleet(profile(0.1), OWN, profile(0.3)).runs("m")
    assert runs.profile.speed().decode_seconds(1) == pytest.approx(0.1)
    assert runs.told.speed().decode_seconds(1) == pytest.approx(0.3)


def test_own_workload_tells_lengths_of_each_kind() -> None:
    found = read_workload(OWN_WORKLOAD)
    counts = Counter(question.question_class for question in found.questions)
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) >= 10
    assert all(q.answer and q.lines and q.expansions and q.whole for q in found.questions)


def test_a_length_that_was_measured_counts_and_others_are_drawn_once() -> None:
    measured = Lengths(
        id="a",
        question_class="generic",
        question="A?",
        answer=100,
        lines=(5, 6),
        whole={"m": 70},
        expansions={"m": (30,)},
    )
    bare = Lengths(id="b", question_class="generic", question="B?")
    writing = Writing(Workload(source="x", unfit={}, questions=(measured, bare)), 3)
    assert (writing.answer("a"), writing.line("a", 1)) == (100, 6)
    assert writing.line("b", 4) in (5, 6)
    assert [writing.line("b", 4) for _ in range(3)] == [writing.line("b", 4)] * 3
    assert writing.expansion("b", "unknown", 0, 0) == 30
    assert not writing.is_unfit("a", "m", 0, 0)


def test_a_workload_without_one_kind_of_length_is_refused(tmp_path: Path) -> None:
    bare = Lengths(id="b", question_class="generic", question="B?")
    path = tmp_path / "workload.json"
    path.write_bytes(msgspec.json.encode(Workload(source="x", unfit={}, questions=(bare,))))
    with pytest.raises(ConfigError, match="no question has its answer"):
        read_workload(path)
