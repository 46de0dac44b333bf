"""Stage 4, the driver: held-out prompts -> images by base and policy -> assessments -> tables -> report."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from actors.files import write_file
from actors.worker_setup import actor_options
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import RunPaths, spatialscore_folder
from pipelines.common.progress_line import Pace, ProgressLine, counted
from pipelines.common.resource_wait import logging_waits
from pipelines.common.resources import ResourceRequest, check_each
from pipelines.common.worker_log import WorkCounter
from pipelines.evaluation.before_after import before_after_figure
from pipelines.evaluation.cases import Case, Result, draw_cases, prompt_row
from pipelines.evaluation.images import GENERATED, GenerateImages, ScoreImages
from pipelines.evaluation.measuring import measure_changes, other_rewards
from pipelines.evaluation.report import render_report
from pipelines.evaluation.tables import Row, Tables, tabulate
from pipelines.evaluation.what_changed import WhatChanged
from pipelines.policy.base_model_check import check_text_lengths
from pipelines.policy.export import provide_export
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.resources import reward_request
from pipelines.policy.versions import choose_version, read_export_record


@dataclass(frozen=True)
class EvaluationResult:
    """The result of `evaluate`. Printed, it is a short table."""

    report: Path  # report.html
    images: int  # of each model
    version: int | None  # of the policy; None if its export does not say
    tables: Tables
    seconds: float
    changes: WhatChanged | None = None

    def __str__(self) -> str:
        version = "" if self.version is None else f" (policy version {self.version})"
        return (
            f"{self.images} images before and after training{version}, in {self.seconds:.0f} s\n{_summary(self.tables)}"
            f"{_changes(self.changes)}"
        )


def evaluate(settings: Settings) -> EvaluationResult:
    """Compares the version of the policy that `export.version` names with its base on held-out prompts.

    Writes the images, prompts.jsonl, results.jsonl, report.json, report.html and, in the scenes world,
    before_after.png to <run_dir>/evaluation, or to a folder in it for a version that is named. Ray must be initialised.
    Raises UserError if there is no SpatialScore or no such version, SettingsError if there are no prompts, or too long
    ones.
    """
    started = time.perf_counter()
    require_earlier_stages(settings)
    cases = draw_cases(settings)
    check_text_lengths(settings, "policy.held_out_prompts", [case.prompt.text for case in cases])
    check_each(settings, actor_requests(settings))
    paths = provide_export(settings)
    results = sorted(generate_and_assess(cases, paths, settings), key=lambda result: result.case.name)
    tables = tabulate(results, settings.evaluation.seed)
    changes = measure_changes(results, paths, settings)
    seconds = time.perf_counter() - started
    record = read_export_record(paths.export)
    version = record.policy_version if record else None
    _write_records(paths, cases, results, tables, seconds, version, changes)
    report = render_report(paths, settings, results, tables, seconds, version, changes)
    write_file(str(paths.evaluation_report), report.encode())
    return EvaluationResult(paths.evaluation_report, len(results), version, tables, seconds, changes)


def actor_requests(settings: Settings) -> tuple[ResourceRequest, ...]:
    """What generates the images, and what scores them, one after the other."""
    samplers, serving = settings.policy.samplers, settings.serving
    hint = "the CPUs or GPUs of section policy.rollout, or of policy.learner with policy.placement=colocated"
    return (
        ResourceRequest("actors of the policy", settings.policy.sampler_count, samplers.cpus, samplers.gpus, "", hint),
        ResourceRequest("scorer of images", 1, serving.cpus, serving.gpus, "", "serving.cpus or serving.gpus"),
        *(reward_request(settings, name, settings.used_rewards()[name]) for name in other_rewards(settings)),
    )


def generate_images(cases: Sequence[Case], paths: RunPaths, settings: Settings, counter: WorkCounter) -> Any:
    """Returns a Ray Dataset (lazy) of cases whose images, by the base and by the policy, have been saved."""
    samplers, rows = settings.policy.samplers, _batch_rows(settings)
    n_blocks = -(-len(cases) // rows)
    packed: Any = ray.data.from_items([{"case": pickle.dumps(case)} for case in cases], override_num_blocks=n_blocks)
    return packed.map_batches(
        GenerateImages,
        fn_constructor_args=(flux_location(settings), paths, settings, counter),
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=min(settings.policy.sampler_count, n_blocks)),
        **actor_options(samplers.threads, samplers.cpus, samplers.gpus),
    )


def generate_and_assess(cases: Sequence[Case], paths: RunPaths, settings: Settings) -> list[Result]:
    """The result of each case, in any order. Reports progress."""
    counter, assessed, pace = WorkCounter.start(), list[Result](), Pace()

    def state() -> str:
        generated = min(max(counter.read().get(GENERATED, 0), len(assessed)), len(cases))
        text = f"{counted(generated, len(cases), 'prompts', pace)}, before and after training"
        return f"{text}; {len(assessed)} assessed" if generated else ""

    with ProgressLine("evaluation") as progress:
        progress.phase("loading the models")
        progress.follow(state)
        with logging_waits(actor_requests(settings), progress.log):
            for result in assess(generate_images(cases, paths, settings, counter), paths, settings):
                assessed.append(result)
        progress.finish(f"{len(assessed)}/{len(cases)} prompts, before and after training, assessed")
    return assessed


def assess(images: Any, paths: RunPaths, settings: Settings) -> Iterable[Result]:
    """Runs the dataset of `generate_images` and yields the result of each case, in any order."""
    serving, rows = settings.serving, _batch_rows(settings)
    assessed = images.map_batches(
        ScoreImages,
        fn_constructor_args=(spatialscore_folder(settings), paths, settings),
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=1),
        **actor_options(serving.threads, serving.cpus, serving.gpus),
    )
    assessed.context.enable_progress_bars = False
    for row in assessed.iter_rows():
        yield Result(pickle.loads(row["case"]), pickle.loads(row["base"]), pickle.loads(row["policy"]))


def _batch_rows(settings: Settings) -> int:
    return settings.evaluation.batch_prompts * settings.evaluation.images_per_prompt


def require_earlier_stages(settings: Settings) -> None:
    """Raises UserError if the run has no SpatialScore, or not the policy of `export.version`. Needs no Ray."""
    choose_version(settings)
    folder = spatialscore_folder(settings)
    if not folder.is_dir():
        raise UserError(f"evaluation needs {folder}: run `spatialt2i reward train` first")


def _write_records(
    paths: RunPaths,
    cases: Sequence[Case],
    results: Sequence[Result],
    tables: Tables,
    seconds: float,
    version: int | None,
    changes: WhatChanged | None,
) -> None:
    """Writes everything but the report."""
    _write_lines(paths.evaluation_prompts, map(prompt_row, cases))
    _write_lines(paths.evaluation_results, map(_result_row, results))
    content = {"policy_version": version, "images": len(results), "seconds": seconds, "tables": asdict(tables)}
    if changes:
        content["what_changed"] = {"verdict": changes.verdict, **asdict(changes)}
    write_file(str(paths.evaluation_tables), json.dumps(content, indent=1).encode())
    if any(result.base.outcomes for result in results):
        before_after_figure(results, paths).save(paths.before_after)


def _result_row(result: Result) -> dict[str, object]:
    return {
        "file_name": f"{result.case.name}.png",
        "text": result.case.prompt.text,
        "base": asdict(result.base),
        "policy": asdict(result.policy),
    }


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    write_file(str(path), "".join(json.dumps(row) + "\n" for row in rows).encode())


def _summary(tables: Tables) -> str:
    """The main measures as lines for a terminal. Shares are in per cent, their differences in percentage points."""
    lines = [f"  {'':<44}{'base':>8}{'policy':>8}   difference [95 % interval]"]
    for title, rows in (
        ("relations correct", tables.relations),
        ("objects present", tables.objects),
        ("images fully correct", tables.perfect),
        ("images with an object nobody asked for", tables.unrequested[:1]),
    ):
        lines += [_share_line(f"{title}, {row.name}", row) for row in rows]
    return "\n".join([*lines, *(_score_line(f"SpatialScore, {row.name}", row) for row in tables.scores)])


def _changes(changes: WhatChanged | None) -> str:
    """What else changed, as lines for a terminal."""
    if changes is None:
        return ""
    lines = [_score_line(each.row.name, each.row) for each in changes.measures]
    missing = f" No scores: {', '.join(changes.unmeasured)}." if changes.unmeasured else ""
    return "\n".join(["", f"What else changed: {changes.verdict}{missing}", *lines])


def _share_line(title: str, row: Row) -> str:
    change = row.difference
    return (
        f"  {title:<44}{row.base.value:>8.1%}{row.policy.value:>8.1%}"
        f"   {100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    )


def _score_line(title: str, row: Row) -> str:
    change = row.difference
    return (
        f"  {title:<44}{row.base.value:>8.2f}{row.policy.value:>8.2f}"
        f"   {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
    )
