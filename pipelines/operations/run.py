"""`spatialt2i run`: preferences -> reward -> policy -> evaluation as one job.

A step whose output is complete for these settings is skipped; one that was interrupted goes on from where it was.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from actors.files import write_file
from conf import Settings, dump
from pipelines.operations.stage_cache import StageRecord, read_record, write_record
from pipelines.operations.stages import STEPS, Step


def run_pipeline(settings: Settings, steps: Sequence[Step] = STEPS) -> None:
    """Does what is missing, in order. Ray must be initialised.

    Keeps every step's seconds in <run_dir>/timings.json, which the report shows. Raises what a step raises; SystemExit
    where SpatialScore does not pass its examination.
    """
    run_dir = Path(settings.run_dir)
    dump(settings, run_dir / "settings.yaml")
    seconds: dict[str, float] = {}
    for step in steps:
        print(f"\n── {step.title} " + "─" * max(4, 76 - len(step.title)), flush=True)
        receipt = complete(step, settings)
        if receipt:
            print("complete for these settings, not done again")
        else:
            receipt = run_step(step, settings)
        print(receipt.summary, flush=True)
        seconds[step.title] = receipt.seconds
        _write_timings(run_dir / "timings.json", seconds)


def complete(step: Step, settings: Settings) -> StageRecord | None:
    """The step's receipt, if its output is there and was made from these settings and inputs."""
    receipt = read_record(step.record_path(settings))
    there = Path(settings.run_dir, step.output).exists()
    return receipt if receipt and there and receipt.digest == step.digest(settings) else None


def run_step(step: Step, settings: Settings) -> StageRecord:
    digest, start = step.digest(settings), time.monotonic()
    told = step.work(settings)
    receipt = StageRecord(digest, told, round(time.monotonic() - start, 1))
    write_record(step.record_path(settings), receipt)
    return receipt


def _write_timings(path: Path, seconds: dict[str, float]) -> None:
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    write_file(str(path), json.dumps({"machine": machine, "seconds": seconds}, indent=1).encode())
