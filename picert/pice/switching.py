"""Which of its models an edge should run for a job."""

from __future__ import annotations

from collections.abc import Sequence

from picert.errors import ModelNotFound
from picert.messages import ModelInfo
from picert.pice.needs import EdgeJob


def choose_model(job: EdgeJob, models: Sequence[ModelInfo]) -> str:
    """The name of the model for `job` at an edge that holds `models`: the one the job names, else
    the largest.

    Raises ModelNotFound if the edge does not hold the named one, or holds none.
    """
    names = [model.name for model in models]
    if job.model is not None:
        if job.model in names:
            return job.model
        raise ModelNotFound(
            f"the edge has no model {job.model!r}, it has {', '.join(names) or 'none'}"
        )
    if not models:
        raise ModelNotFound("the edge holds no model")
    return max(models, key=lambda model: model.num_parameters).name
