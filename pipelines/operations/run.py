"""`spatialt2i run`: preferences -> reward -> policy -> evaluation as one job, and the benchmarks if `in_run` is set.

A step is skipped if its output is complete for these settings. A step that was interrupted continues.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

from actors.files import write_file
from conf import Settings
from pipelines.common.paths import run_paths
from pipelines.common.run_lookup import record_settings
from pipelines.common.terminal import coloured, styled
from pipelines.operations.stage_cache import StageRecord, read_record, write_record
from pipelines.operations.stages import PipelineStep, StepResult, steps_of
from pipelines.reward.locations import count_waiting, open_pairs, pair_source

HEADING_WIDTH = 80


def run_pipeline(settings: Settings, steps: Sequence[PipelineStep] | None = None) -> None:
    """Runs the steps (None: all) that are not complete, in order. Ray must be initialised.

    Ends after stage 1, and prints the commands for the people, if the pairs wait for their review. Keeps the seconds of
    every step in <run_dir>/timings.json, which the report shows. Raises what a step raises, and SystemExit if
    SpatialScore does not pass its sanity checks. A step may lack what no later step needs, such as a baseline: then
    SystemExit ends the run after its last step.
    """
    paths = run_paths(settings)
    record_settings(settings, "evaluation")  # the other stages record theirs, after they have accepted them
    seconds: dict[str, float] = {}
    missing: list[str] = []
    for step in steps_of(settings) if steps is None else steps:
        print("\n" + styled(f"── {step.title} ".ljust(HEADING_WIDTH, "─"), "heading"), flush=True)
        record = complete_record(step, settings)
        if record:
            print(styled("skipped: complete for these settings", "dim"))
        else:
            record = run_step(step, settings)
        print(coloured(record.summary), flush=True)
        seconds[step.title] = record.seconds
        missing += [record.missing] if record.missing else []
        _write_timings(paths.timings, seconds)
        if step.name == "preferences" and (text := review_instructions(settings)):
            print("\n" + text, flush=True)
            return
    if missing:
        raise SystemExit("\n".join(missing))


def review_instructions(settings: Settings) -> str:
    """What people have to do before stage 2, with the exact commands; "" if no pair waits for their review."""
    run_dir, source = settings.run_dir, pair_source(settings)
    waiting = 0 if source.unreviewed else sum(count_waiting(open_pairs(folder)) for folder in source.folders)
    if not waiting:
        return ""
    return f"""{waiting} pairs wait for people, so this run ends here, with exit code 0. Review and publish them:

  spatialt2i preferences review run_dir={run_dir} review.annotators=[ann,ben] review.adjudicators=[cleo]
  spatialt2i preferences publish run_dir={run_dir}

Then start the same command again with the published version:

  reward.pairs={run_paths(settings).published / settings.publish.version}

docs/review.md explains the review. reward.unreviewed=true trains on pairs that nobody has verified."""


def complete_record(step: PipelineStep, settings: Settings) -> StageRecord | None:
    """The step's record, if its output exists, lacks nothing, and was made from these settings and inputs."""
    record = read_record(step.record_path(settings))
    exists = step.output(run_paths(settings)).exists()
    return record if record and exists and not record.missing and record.digest == step.digest(settings) else None


def run_step(step: PipelineStep, settings: Settings) -> StageRecord:
    """Runs a step and writes its record."""
    digest, start = step.digest(settings), time.monotonic()
    result = step.run(settings)
    done = result if isinstance(result, StepResult) else StepResult(result)
    record = StageRecord(digest, done.summary, round(time.monotonic() - start, 1), done.missing)
    write_record(step.record_path(settings), record)
    return record


def _write_timings(path: Path, seconds: dict[str, float]) -> None:
    """Writes the machine and the seconds of each step, by its title."""
    machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    write_file(str(path), json.dumps({"machine": machine, "seconds": seconds}, indent=1).encode())
