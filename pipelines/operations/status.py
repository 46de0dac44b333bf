"""`spatialt2i status`: the state of a run in the terminal, in the order of the Grafana dashboard's questions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from conf import Settings, UserError
from pipelines.common.paths import run_paths
from pipelines.operations.cluster_summary import read_cluster_summary
from pipelines.operations.stage_cache import read_record
from pipelines.operations.stages import STEPS
from pipelines.policy.metrics import EvaluationRow, IterationRow, read_iteration, read_rows
from pipelines.policy.progress import wait_breakdown

Row = Mapping[str, Any]
BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_LENGTH = 40
"""Iterations that a sparkline shows."""
SLOW_SCORES = 0.5
"""Fraction of an iteration above which the latency of a group's scores is too long."""


def show_status(settings: Settings, console: Console | None = None) -> None:
    """Shows the run until Ctrl-C, or once with `status.once`. It reads files, so no cluster needs to answer."""
    console = console or Console()
    if settings.status.once:
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
    rows, evaluations = read_rows(paths.metrics, IterationRow), read_rows(paths.evaluations, EvaluationRow)
    parts: list[RenderableType] = [
        Text(f"{settings.run_dir}   {time.strftime('%H:%M:%S')}", style="bold"),
        _pipeline_steps(settings),
    ]
    if rows:
        idle_seconds = time.time() - paths.metrics.stat().st_mtime
        parts.append(_policy_table(rows, evaluations, settings, idle_seconds))
    else:
        parts.append(Text("no policy version has been published yet"))
    return Group(*parts, *_cluster_table(settings.status.address))


def _cluster_table(address: str) -> list[RenderableType]:
    """Nodes, actors, and actors that wait for resources; empty if no dashboard answers."""
    try:
        cluster = read_cluster_summary(address)
    except UserError as error:
        return [Text(str(error), style="bold red")]
    if cluster is None:
        return []
    table = _new_table()
    table.add_row("nodes", cluster.nodes)
    table.add_row("actors", cluster.actors)
    pending = cluster.pending and f"{cluster.pending}: waiting for resources, or starting"
    table.add_row("pending?", pending or "nothing", _ok_or(not pending, "see `spatialt2i doctor`"))
    return [table]


def _new_table() -> Table:
    return Table(show_header=False, box=None, padding=(0, 2, 0, 0))


def _pipeline_steps(settings: Settings) -> Text:
    """The steps of `spatialt2i run`, with the seconds of those that are done."""
    text = Text()
    for step in STEPS:
        record = read_record(step.record_path(settings))
        text.append(f"{'✓' if record else '·'} {step.name}", style="green" if record else "dim")
        text.append(f" {record.seconds:.0f} s   " if record else "   ")
    return text


def _policy_table(rows: Sequence[Row], evaluations: Sequence[Row], settings: Settings, idle_seconds: float) -> Table:
    """One line for each question: its name, the newest measurements, and "ok" or what to do."""
    table, last = _new_table(), rows[-1]
    iteration = read_iteration(dict(last))
    table.add_row("progress?", *_progress(last, settings, idle_seconds))
    trend = sparkline([row["reward_mean"] for row in rows])
    reward = f"reward mean {_format(last['reward_mean'])}, std in a group {_format(last['reward_std'], '.3f')}  {trend}"
    table.add_row("learning?", reward, _held_out_trend(evaluations))
    table.add_row("on-policy?", *_on_policy(last, settings))
    table.add_row("waiting?", wait_breakdown(iteration), f"{last['images_per_second']:.0f} images/s")
    table.add_row("rewards?", *_score_latency(last, settings))
    table.add_row("failures?", *_failures(iteration))
    return table


def _progress(last: Row, settings: Settings, idle_seconds: float) -> tuple[str, Text]:
    policy, seconds = settings.policy, last["iteration_seconds"]
    finished = last["iteration"] >= policy.iterations or 0 < policy.minutes * 60 <= last["training_seconds"]
    stalled = idle_seconds > 10 * seconds + 60 and not finished
    message = (
        f"{last['iteration']}/{policy.iterations} iterations, {seconds:.1f} s each, newest {idle_seconds:.0f} s ago"
    )
    return message, _ok_or(not stalled, "no progress: see docs/troubleshooting.md")


def _on_policy(last: Row, settings: Settings) -> tuple[str, Text]:
    drift = last["ratio_drift"]
    message = (
        f"max |ratio-1| {_format(drift, '.0e')} before the first optimizer step, "
        f"KL to base {_format(last['kl'], '.2e')}, clipped {_format(last['clip_fraction'], '.0%')}"
    )
    good = drift is None or drift <= settings.policy.algorithm.ratio_tolerance
    return message, _ok_or(good, "above policy.algorithm.ratio_tolerance")


def _score_latency(last: Row, settings: Settings) -> tuple[str, Text]:
    latency, retries = last["score_latency_seconds"], last["score_retries"]
    message = f"{latency:.2f} s from a group's images to its scores; {retries} scoring calls retried"
    good = latency <= SLOW_SCORES * last["iteration_seconds"]
    return message, _ok_or(good, f"more than half an iteration: {_scaling_hint(settings)}")


def _scaling_hint(settings: Settings) -> str:
    """The settings to raise if scores arrive late. The alert RewardPoolSaturated gives the same advice in full."""
    weights = settings.rewards
    settings_by_weight = (
        (weights.spatialscore, "serving.max_replicas"),
        (weights.judge, "judge.concurrency"),
        (weights.detector, "detector.max_replicas"),
    )
    return f"raise {' or '.join(name for weight, name in settings_by_weight if weight) or 'policy.max_staleness'}"


def _failures(row: IterationRow) -> tuple[str, str]:
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
    }
    since = f"since start {row.driver_starts} of the driver"
    return f"newest iteration: {_nonzero(failed)}", f"{since}: {_nonzero(recovered)}"


def _nonzero(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"


def _held_out_trend(evaluations: Sequence[Row]) -> str:
    """First and last value on held-out prompts: of the exact checker if there is one, else of the reward."""
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    exact = last["relation_accuracy_short"] is not None
    key, name = (
        ("relation_accuracy_short", "relations correct, short prompts") if exact else ("reward_mean", "reward mean")
    )
    form = ".1%" if exact else "+.3f"
    return f"held out, {name}: {_format(first[key], form)} → {_format(last[key], form)}"


def _ok_or(good: bool, advice: str) -> Text:
    return Text("ok", style="green") if good else Text(advice, style="bold red")


def _format(value: float | None, form: str = "+.3f") -> str:
    return "none" if value is None else f"{value:{form}}"


def sparkline(values: Sequence[float | None]) -> str:
    """The newest values as bars, a blank for each missing one."""
    recent = values[-SPARKLINE_LENGTH:]
    known = [value for value in recent if value is not None]
    low, span = (min(known), (max(known) - min(known)) or 1.0) if known else (0.0, 1.0)
    return "".join(" " if value is None else BARS[int((value - low) / span * (len(BARS) - 1))] for value in recent)
