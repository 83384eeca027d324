"""What is expected of a plan's quality before and after something is learned."""

import pytest

from picert.config import PolicyConfig
from picert.pice.quality import QualityTable, edge_quality, least_quality, sketch_quality


def test_quality_grows_with_what_helps() -> None:
    assert sketch_quality(0.9, 1.0, 0.9, 1) > sketch_quality(0.4, 1.0, 0.9, 1)
    assert sketch_quality(0.9, 1.0, 0.9, 1) > sketch_quality(0.9, 0.5, 0.9, 1)
    assert sketch_quality(0.9, 1.0, 0.9, 2) > sketch_quality(0.9, 1.0, 0.9, 1)
    assert sketch_quality(1.0, 1.0, 1.0, 1) == 1.0
    assert edge_quality(True) > edge_quality(False)


def test_scores_of_one_model_level_and_class_change_that_cell_alone() -> None:
    table = QualityTable()
    before = table.worth(["m"], 0.2, "generic")
    for _ in range(100):
        table.observe("m", 0.2, "generic", 0.2)
    assert table.worth(["m"], 0.2, "generic") == pytest.approx(0.27, abs=0.01)
    assert table.worth(["m"], 0.3, "generic") == before
    assert table.worth(["m"], 0.2, "knowledge") == before
    assert table.worth(["m", "other"], 0.2, "generic") == pytest.approx(0.61, abs=0.01)


def test_scores_out_of_range_count_as_the_nearest_that_may_be() -> None:
    table = QualityTable()
    for _ in range(1000):
        table.observe("m", 0.2, "generic", 9.0)
    assert table.worth(["m"], 0.2, "generic") <= 1.0


def test_answers_that_one_wrong_step_spoils_demand_more() -> None:
    config = PolicyConfig(min_quality=0.4)
    assert least_quality("generic", config) == 0.4
    assert least_quality("math", config) == 0.9
