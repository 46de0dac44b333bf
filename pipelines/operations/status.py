"""`spatialt2i status`: the state of a run in the terminal, in the order of the Grafana dashboard's questions.

It reads files and asks a dashboard, so it imports neither torch nor the stages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from conf import Settings, UserError
from pipelines.common.paths import run_paths
from pipelines.common.progress_line import clock
from pipelines.common.run_lookup import shown_path
from pipelines.operations.answer import Answer, sparkline
from pipelines.operations.cluster_summary import read_cluster_summary
from pipelines.operations.stage_cache import BENCHMARK, STEP_STAGES, read_record, step_record
from pipelines.policy.lineage import read_lineage
from pipelines.policy.metrics import EvaluationRow, IterationRow, read_evaluations, read_iteration, read_rows
from pipelines.policy.waits import wait_breakdown
from pipelines.policy.watch import fallen, missing

Row = Mapping[str, Any]
SLOW_SCORES = 0.5
"""Fraction of an iteration above which the latency of a group's scores is too long."""


def show_status(settings: Settings, console: Console | None = None) -> None:
    """Shows the run until Ctrl-C, or once with `status.once` or if the output is no terminal, e.g. a pipe or a file.

    It reads files, so no cluster needs to answer.
    """
    console = console or Console()
    if settings.status.once or not console.is_terminal:
        console.print(render_status(settings))
        return
    with Live(render_status(settings), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(settings.status.every)
                live.update(render_status(settings), refresh=True)
        except KeyboardInterrupt:
            return


def render_status(settings: Settings) -> Group:
    """The state of the run now: the steps of the pipeline, the training of the policy, and the cluster.

    Raises UserError if there is no run directory.
    """
    paths = run_paths(settings)
    if not paths.root.is_dir():
        raise UserError(f"there is no run in {settings.run_dir}: name its folder, e.g. run_dir=runs/demo")
    rows, evaluations = read_rows(paths.metrics, IterationRow), read_evaluations(paths.evaluations)
    parts: list[RenderableType] = [
        Text(f"{shown_path(settings.run_dir)}   {time.strftime('%H:%M:%S')}", style="bold"),
        Answer("steps", _pipeline_steps(settings)),
    ]
    if rows:
        idle_seconds = time.time() - paths.metrics.stat().st_mtime
        parts += _policy_answers(rows, evaluations, settings, idle_seconds)
    else:
        parts.append(Text("no policy version has been published yet"))
    return Group(*parts, *_cluster_answers(settings.status.address))


def _cluster_answers(address: str) -> list[RenderableType]:
    """Nodes, actors, and actors that wait for resources; empty if no dashboard answers."""
    try:
        cluster = read_cluster_summary(address)
    except UserError as error:
        return [Text(str(error), style="bold red")]
    if cluster is None:
        return []
    pending = [f"{cluster.pending}: waiting for resources, or starting"] if cluster.pending else ["nothing"]
    return [
        Answer("nodes", [cluster.nodes]),
        Answer("actors", cluster.actors.split(", ")),
        Answer("pending?", pending, _ok_or(not cluster.pending, "see `spatialt2i doctor`")),
    ]


def _pipeline_steps(settings: Settings) -> list[str]:
    """The steps of `spatialt2i run`, with the seconds of those that are done."""
    steps = (*STEP_STAGES, BENCHMARK) if settings.benchmark.in_run else STEP_STAGES
    records = {step: read_record(step_record(run_paths(settings), step)) for step in steps}
    return [
        f"✓ {step} {record.seconds:.0f} s" if record and not record.missing else f"· {step}"
        for step, record in records.items()
    ]


def _policy_answers(
    rows: Sequence[Row], evaluations: Sequence[EvaluationRow], settings: Settings, idle_seconds: float
) -> Iterator[Answer]:
    """An answer for each question about the training of the policy."""
    last = rows[-1]
    iteration = read_iteration(dict(last))
    yield Answer("progress?", *_progress(last, settings, idle_seconds))
    reward = [
        f"reward mean {_format(last['reward_mean'])}",
        f"std in a group {_format(last['reward_std'], '.3f')}",
        sparkline([row["reward_mean"] for row in rows]),
    ]
    yield Answer("learning?", reward)
    if evaluations:
        yield Answer("held out?", *_held_out(evaluations))
    yield Answer("on-policy?", *_on_policy(last, settings))
    if lineage := read_lineage(run_paths(settings).lineage):
        yield Answer("changed?", [str(row) for row in lineage])
    yield Answer("waiting?", [*wait_breakdown(iteration).split(", "), f"{last['images_per_second']:.0f} images/s"])
    yield Answer("rewards?", *_score_latency(last, settings))
    yield Answer("failures?", _failures(iteration))


def _progress(last: Row, settings: Settings, idle_seconds: float) -> tuple[list[str], Text]:
    policy, seconds = settings.policy, last["iteration_seconds"]
    finished = last["iteration"] >= policy.iterations or 0 < policy.minutes * 60 <= last["training_seconds"]
    stalled = idle_seconds > 10 * seconds + 60 and not finished
    message = [
        f"{last['iteration']}/{policy.iterations} iterations",
        f"{seconds:.1f} s each",
        f"newest {clock(idle_seconds)} ago",
    ]
    return message, _ok_or(not stalled, "no progress: see docs/troubleshooting.md")


def _on_policy(last: Row, settings: Settings) -> tuple[list[str], Text]:
    drift = last["ratio_drift"]
    message = [
        f"max |ratio-1| {_format(drift, '.0e')} before the first optimizer step",
        f"KL to base {_format(last['kl'], '.2e')}",
        f"clipped {_format(last['clip_fraction'], '.0%')}",
    ]
    good = drift is None or drift <= settings.policy.algorithm.ratio_tolerance
    return message, _ok_or(good, "above policy.algorithm.ratio_tolerance")


def _score_latency(last: Row, settings: Settings) -> tuple[list[str], Text]:
    latency, retries = last["score_latency_seconds"], last["score_retries"]
    message = [f"{latency:.2f} s from a group's images to its scores", f"{retries} scoring calls retried"]
    good = latency <= SLOW_SCORES * last["iteration_seconds"]
    return message, _ok_or(good, f"more than half an iteration: {_scaling_hint(settings)}")


def _scaling_hint(settings: Settings) -> str:
    """The settings to raise if scores arrive late. The alert RewardPoolSaturated gives the same advice in full."""
    by_kind = {
        "spatialscore": "serving.max_replicas",
        "judge": "judge.concurrency",
        "detector": "detector.max_replicas",
    }
    raised = [name for kind, name in by_kind.items() if settings.trains_on(kind)]
    raised += [f"rewards.{name}.max_replicas" for name in settings.replicated_rewards()]
    return f"raise {' or '.join(raised) or 'policy.max_staleness'}"


def _failures(row: IterationRow) -> list[str]:
    """What failed in the newest iteration, and what was recovered since the driver started."""
    failed = {
        "failed scores": row.scores_failed,
        "skipped groups": row.groups_skipped,
        "skipped optimizer steps": row.optimizer_steps_skipped,
    }
    recovered = {
        "reissued groups": row.groups_reissued,
        "resampled groups": row.groups_resampled,
        "replaced actors": row.actors_replaced,
        "restarted learners": row.learner_restarts,
        "device faults": row.device_faults,
        "times out of memory": row.out_of_memory,
        "avoided nodes": row.nodes_avoided,
        "abandoned calls": row.calls_abandoned,
        "missed checkpoints": row.checkpoints_missed,
    }
    since = f"since start {row.driver_starts} of the driver"
    return [f"newest iteration: {_nonzero(failed)}", f"{since}: {_nonzero(recovered)}"]


def _nonzero(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"


def _held_out(evaluations: Sequence[EvaluationRow]) -> tuple[list[str], Text]:
    """First and last value on held-out prompts: of the exact checker if there is one, else of the reward."""
    first, last = evaluations[0], evaluations[-1]
    if math.isnan(last.relation_accuracy_short):
        shown = [f"reward mean {first.reward_mean:+.3f} → {last.reward_mean:+.3f}"]
    else:
        shown = [
            "relations correct: short prompts "
            f"{first.relation_accuracy_short:.1%} → {last.relation_accuracy_short:.1%}",
            f"long prompts {first.relation_accuracy_long:.1%} → {last.relation_accuracy_long:.1%}",
        ]
    if last.best_iteration:
        shown.append(f"best version so far {last.best_iteration}")
    falls, gaps = fallen(last.measures), missing(last)
    advice = f"the trained reward rises while this falls: {falls}; " if falls else ""
    advice += f"no scores of {gaps}: see the driver's log; " if gaps else ""
    return shown, _ok_or(not advice, advice.removesuffix("; "))


def _ok_or(good: bool, advice: str) -> Text:
    return Text("ok", style="green") if good else Text(advice, style="bold red")


def _format(value: float | None, form: str = "+.3f") -> str:
    return "none" if value is None else f"{value:{form}}"
