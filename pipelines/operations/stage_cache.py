"""Stage records: a JSON file beside each output that says what it was made from, so finished work is not repeated.

A record is written after the output, atomically. It holds the digest of everything that the output depends on
(settings and input files) and the summary that the step printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file
from actors.json_files import read_record as read_json_record
from pipelines.common.paths import RunPaths
from pipelines.common.stage_paths import Stage

STEP_STAGES: Mapping[str, Stage] = {
    "preferences": "preferences",
    "reward": "reward",
    "accuracy": "reward",
    "sanity_checks": "reward",
    "policy": "policy",
    "evaluation": "evaluation",
}
"""Step of `spatialt2i run` -> the stage in whose folder its record is."""

BENCHMARK = "benchmark"
"""The step that `benchmark.in_run` adds."""


@dataclass(frozen=True)
class StageRecord:
    """One finished step of the pipeline."""

    digest: str  # of everything that decides the output
    summary: str  # printed when the step was done
    seconds: float  # wall-clock
    missing: str = ""  # what another call may add, in a sentence; such a step is not complete


def read_record(path: Path) -> StageRecord | None:
    """Reads the record at `path`; None if there is none that can be used, so that the step is done again."""
    try:
        return read_json_record(str(path), StageRecord)
    except (FileNotFoundError, ValueError):
        return None


def step_record(paths: RunPaths, step: str) -> Path:
    """The record of a step of `spatialt2i run`, in the folder of its stage, or in that of the benchmarks."""
    if step == BENCHMARK:
        return paths.benchmark / f"{step}-step.json"
    return paths.stage_record(STEP_STAGES[step], step)


def write_record(path: Path, record: StageRecord) -> None:
    """Writes a record atomically."""
    write_file(str(path), json.dumps(asdict(record), indent=1).encode())
