"""Speeds of the run's models, for cloud and edges to plan with: `picert profile`, each model on the
cores that it will serve on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pice.cells import tell
from pice.system import Machines, on_cpus, run_until_told
from picert.commands.processes import Children

_MEASURE_S = 300.0  # of one model


def measure_profiles(machines: Machines, out: Path) -> None:
    """Write the profile of every model of cloud and edges. Raises PicertError."""
    run_until_told(_measure(machines, out))


async def _measure(machines: Machines, out: Path) -> bool:
    places = {model: machines.cpus_edge for edge in machines.edges for model in edge}
    places[machines.cloud_model] = machines.cpus_cloud
    with tempfile.TemporaryDirectory(prefix="picert-bench-") as folder:
        async with Children(Path(folder)) as children:
            for model, cpus in places.items():
                tell(f"profile of {model}")
                flags = ["--model", model, "--out", str(out), "--threads", str(len(cpus))]
                with on_cpus(cpus):
                    child = await children.start("profile", "main", ["profile", *flags])
                await child.finished(_MEASURE_S)
    return True
