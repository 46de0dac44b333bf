"""Stage 4, the driver: held-out prompts -> pictures by base and policy -> judgement -> tables -> report."""

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
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.paths import score_folder
from pipelines.evaluation.before_after import before_after_figure
from pipelines.evaluation.cases import Case, Result, draw_cases, prompt_row
from pipelines.evaluation.images import GenerateImages, ScoreImages
from pipelines.evaluation.report import render_report
from pipelines.evaluation.tables import Row, Tables, tabulate
from pipelines.policy.fingerprint import flux_location


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured, and where it is told in full."""

    report: Path  # report.html
    images: int  # of each side
    tables: Tables
    seconds: float

    def __str__(self) -> str:
        return f"{self.images} pictures before and after, in {self.seconds:.0f} s\n{_told(self.tables)}"


def evaluate(settings: Settings) -> EvaluationResult:
    """Judges the exported policy of `settings.run_dir` against its base, on the Ray of this process.

    Writes <run_dir>/evaluation/: {base,policy}/NNNN.png, prompts.jsonl, results.jsonl, report.json, report.html and,
    where the exact checker can read the pictures, before_after.png.
    Raises FileNotFoundError, naming the stage to run, where there is no SpatialScore or no exported policy.
    """
    started = time.perf_counter()
    run_dir = Path(settings.run_dir).absolute()
    folder = run_dir / "evaluation"
    cases = draw_cases(settings)
    results = sorted(_judge(cases, folder, run_dir, settings), key=lambda result: result.case.name)
    tables = tabulate(results, settings.evaluation.seed)
    _write_lines(folder / "prompts.jsonl", (prompt_row(case) for case in cases))
    _write_lines(folder / "results.jsonl", (_result_row(result) for result in results))
    if any(result.base.outcomes for result in results):
        before_after_figure(results, folder).save(folder / "before_after.png")
    seconds = time.perf_counter() - started
    content = {"pictures": len(results), "seconds": seconds, "tables": asdict(tables)}
    write_file(str(folder / "report.json"), json.dumps(content, indent=1).encode())
    report = folder / "report.html"
    write_file(str(report), render_report(run_dir, settings, results, tables, seconds).encode())
    return EvaluationResult(report, len(results), tables, seconds)


def _judge(cases: Sequence[Case], folder: Path, run_dir: Path, settings: Settings) -> Iterable[Result]:
    """Streams the cases through the actors that draw and the one that judges."""
    own, policy, pool = settings.evaluation, settings.policy, settings.serving
    lora, score = run_dir / "policy" / "export", score_folder(settings)
    for path, stage in ((lora, "policy train"), (score, "reward train")):
        if not path.is_dir():
            raise FileNotFoundError(f"evaluation needs {path}: run `spatialt2i {stage}` first")
    rows = own.batch_prompts * own.images_per_prompt
    blocks = -(-len(cases) // rows)
    source: Any = ray.data.from_items([{"case": pickle.dumps(case)} for case in cases], override_num_blocks=blocks)
    drawn = source.map_batches(
        GenerateImages,
        fn_constructor_args=(flux_location(settings), lora, folder, settings),
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=min(policy.rollout.max_actors, blocks)),
        **actor_options(policy.rollout.threads, policy.rollout.cpus, policy.rollout.gpus),
    )
    judged = drawn.map_batches(
        ScoreImages,
        fn_constructor_args=(str(score), folder, settings.flux.model == EMBEDDED, settings),
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=1),
        **actor_options(pool.threads, pool.cpus, pool.gpus),
    )
    judged.context.enable_progress_bars = False
    for done, row in enumerate(judged.iter_rows(), start=1):
        if done % (4 * rows) == 0 or done == len(cases):
            print(f"evaluation  {done}/{len(cases)} pictures before and after", flush=True)
        yield Result(pickle.loads(row["case"]), pickle.loads(row["base"]), pickle.loads(row["policy"]))


def _result_row(result: Result) -> dict[str, object]:
    return {
        "file_name": f"{result.case.name}.png",
        "text": result.case.prompt.text,
        "base": asdict(result.base),
        "policy": asdict(result.policy),
    }


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    write_file(str(path), "".join(json.dumps(row) + "\n" for row in rows).encode())


def _told(tables: Tables) -> str:
    """The main measures as lines for a terminal."""
    lines = [f"  {'':<34}{'base':>8}{'policy':>8}   difference, 95 % interval"]
    named = (("relations right", tables.relations), ("objects present", tables.objects),
             ("pictures all right", tables.perfect), ("SpatialScore", tables.scores))  # fmt: skip
    for title, rows in named:
        lines += [_line(f"{title}, {row.name}", row) for row in rows]
    return "\n".join(lines)


def _line(title: str, row: Row) -> str:
    change = row.difference
    return (
        f"  {title:<34}{row.base.value:>8.3f}{row.policy.value:>8.3f}"
        f"   {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    )
