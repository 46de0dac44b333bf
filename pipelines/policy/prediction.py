"""What the planner predicts for a run on the GPUs of the cluster, to be shown beside what is observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ray

from conf import Settings, UserError
from pipelines.common.paths import run_paths
from pipelines.planning.calibration import read_calibration
from pipelines.planning.fleet import is_on_gpus, machines
from pipelines.planning.gpus import GpuType, recognize
from pipelines.policy.metrics import IterationRow, read_rows

if TYPE_CHECKING:
    from pipelines.planning.search import Candidate

_LABEL = "accelerator_type:"
"""Ray gives every node with GPUs a resource of this name and their type."""


def cluster_prediction(settings: Settings) -> str:
    """The prediction for the connected cluster, in one line; "" if its GPUs are of no known type, or of several."""
    return prediction(settings, cluster_gpu(ray.nodes()))


def cluster_gpu(nodes: Iterable[Mapping[str, Any]]) -> GpuType | None:
    """The type of all GPUs of the cluster, from Ray's list of nodes; None if there is none, or no known one."""
    names = {
        name.removeprefix(_LABEL)
        for node in nodes
        if node["Alive"]
        for name in node["Resources"]
        if name.startswith(_LABEL)
    }
    return recognize(names.pop()) if len(names) == 1 else None


def prediction(settings: Settings, gpu: GpuType | None) -> str:
    """One line: seconds, busy share and memory of the settings on this type of GPU, and what a run has observed.

    "" if nothing can be predicted: no known GPU, settings that reserve none, or a model of unknown configuration.
    """
    if gpu is None or not is_on_gpus(machines(settings)):
        return ""
    from pipelines.planning.search import evaluate  # imports the models' libraries

    try:
        candidate = evaluate(settings, gpu, read_calibration(settings))
    except UserError:
        return ""
    return _line(candidate, gpu, _observed(settings))


def _line(candidate: Candidate, gpu: GpuType, observed: Sequence[float]) -> str:
    iteration = candidate.iteration
    fullest = max(candidate.memory, key=lambda memory: memory.gib)
    seen = f"; observed: {sorted(observed)[len(observed) // 2]:.1f} s" if observed else ""
    return (
        f"predicted on {iteration.gpus} x {gpu.name}: {iteration.seconds:.1f} s an iteration{seen}, GPUs "
        f"{iteration.busy:.0%} busy, {fullest.gib:.0f} of {gpu.usable_gib:.0f} GiB on the fullest"
    )


def _observed(settings: Settings) -> list[float]:
    """Seconds of the last iterations of the run, if it has some."""
    rows = read_rows(run_paths(settings).metrics, IterationRow)
    return [row["iteration_seconds"] for row in rows[-9:] if row["iteration_seconds"]]
