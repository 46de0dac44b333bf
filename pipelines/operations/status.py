"""`spatialt2i status`: a run in the terminal, one line a question, as the Grafana dashboard asks them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from conf import Settings
from pipelines.operations.cluster_state import cluster_state
from pipelines.operations.stage_cache import read_record
from pipelines.operations.stages import STEPS
from pipelines.policy.metrics import IterationRow, read_iteration, read_rows
from pipelines.policy.progress import wait_breakdown

Row = dict[str, Any]
BARS = "▁▂▃▄▅▆▇█"
FAILURES = ("scores_failed", "optimizer_steps_skipped", "groups_skipped")  # of the iteration
RECOVERED = ("groups_reissued", "groups_resampled", "actors_replaced", "learner_restarts")  # since the driver started
RECENT = 40  # iterations that a sparkline shows


def watch(settings: Settings, console: Console | None = None) -> None:
    """Shows the run until Ctrl-C, or once with `status.once`. It reads files, so no cluster needs to answer."""
    console = console or Console()
    if settings.status.once:
        console.print(look(settings))
        return
    with Live(look(settings), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(settings.status.every)
                live.update(look(settings), refresh=True)
        except KeyboardInterrupt:
            return


def look(settings: Settings) -> Group:
    """The run as it is now: its stages, and the questions about its policy."""
    folder = Path(settings.run_dir, "policy")
    rows, evaluations = read_rows(folder / "metrics.jsonl"), read_rows(folder / "evaluation.jsonl")
    parts: list[RenderableType] = [
        Text(f"{settings.run_dir}   {time.strftime('%H:%M:%S')}", style="bold"),
        _stages(settings),
    ]
    if rows:
        parts.append(_questions(rows, evaluations, settings, time.time() - (folder / "metrics.jsonl").stat().st_mtime))
    else:
        parts.append(Text("the policy has not published a version yet"))
    return Group(*parts, *_cluster(settings.status.address))


def _cluster(address: str) -> list[RenderableType]:
    """Nodes, actors and what waits for a place; nothing where no dashboard answers."""
    try:
        state = cluster_state(address)
    except RuntimeError as error:
        return [Text(str(error), style="bold red")]
    if state is None:
        return []
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("nodes", state.nodes)
    table.add_row("actors", state.actors)
    waiting = state.pending and f"{state.pending}: no room yet, or still starting"
    table.add_row("pending?", waiting or "nothing", _verdict(not waiting, "see `spatialt2i doctor`"))
    return [table]


def _stages(settings: Settings) -> Text:
    """Which steps of `run` have left a receipt."""
    told = Text()
    for step in STEPS:
        receipt = read_record(step.record_path(settings))
        told.append(f"{'✓' if receipt else '·'} {step.name}", style="green" if receipt else "dim")
        told.append(f" {receipt.seconds:.0f} s   " if receipt else "   ")
    return told


def _questions(rows: Sequence[Row], evaluations: Sequence[Row], settings: Settings, idle: float) -> Table:
    """One row a question: its name, what was measured last, and whether that is well."""
    last, policy = rows[-1], settings.policy
    pace, drift, score = last["iteration_seconds"], last["ratio_drift"], last["score_latency_seconds"]
    over = last["iteration"] >= policy.iterations or 0 < policy.minutes * 60 <= last["training_seconds"]
    late = idle > 10 * pace + 60 and not over
    trend = sparkline([row["reward_mean"] for row in rows])
    iteration = read_iteration(last)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row(
        "progress",
        f"{last['iteration']}/{policy.iterations} versions, {pace:.1f} s each, last one {idle:.0f} s ago",
        _verdict(not late, "no progress: see docs/troubleshooting.md"),
    )
    reward = f"reward {_number(last['reward_mean'])} ± {_number(last['reward_std'], '.3f')}  {trend}"
    table.add_row("learning?", reward, _held_out(evaluations))
    table.add_row(
        "on-policy?",
        f"drift {_number(drift, '.1e')}, kl {_number(last['kl'], '.2e')}, clip {_number(last['clip_fraction'], '.0%')}",
        _verdict(drift is None or drift <= policy.algorithm.ratio_tolerance, "above policy.algorithm.ratio_tolerance"),
    )
    table.add_row("who waits?", wait_breakdown(iteration), f"{last['images_per_second']:.0f} images/s")
    table.add_row(
        "rewards?",
        f"a group's scores take {score:.2f} s, {last['score_retries']} calls made again since the driver started",
        _verdict(score <= 0.5 * pace, f"half an iteration: {_sooner(settings)}"),
    )
    table.add_row(
        "failed?",
        _counted(iteration, FAILURES) or "nothing",
        f"since driver {iteration.driver_starts} started: {_counted(iteration, RECOVERED) or 'nothing mended'}",
    )
    return table


def _sooner(settings: Settings) -> str:
    """What to raise where scores come late, as the alert RewardPoolSaturated says at length."""
    mix = settings.rewards
    of_each = (
        (mix.spatialscore, "serving.max_replicas"),
        (mix.judge, "judge.concurrency"),
        (mix.detector, "detector.max_replicas"),
    )
    return f"raise {' or '.join(name for weight, name in of_each if weight) or 'policy.max_staleness'}"


def _counted(row: IterationRow, names: Sequence[str]) -> str:
    """Those that are not 0."""
    values = {name.replace("_", " "): getattr(row, name) for name in names}
    return "  ".join(f"{name} {value}" for name, value in values.items() if value)


def _held_out(evaluations: Sequence[Row]) -> str:
    if not evaluations:
        return ""
    first, last = evaluations[0], evaluations[-1]
    measure = "reward_mean" if last["relation_accuracy_short"] is None else "relation_accuracy_short"
    return f"held out, {measure.replace('_', ' ')}: {_number(first[measure])} → {_number(last[measure])}"


def _verdict(good: bool, otherwise: str) -> Text:
    return Text("ok", style="green") if good else Text(otherwise, style="bold red")


def _number(value: float | None, form: str = "+.3f") -> str:
    return "none" if value is None else f"{value:{form}}"


def sparkline(values: Sequence[float | None]) -> str:
    """The last values as bars; a blank where there was none."""
    recent = values[-RECENT:]
    known = [value for value in recent if value is not None]
    low, span = (min(known), (max(known) - min(known)) or 1.0) if known else (0.0, 1.0)
    return "".join(" " if value is None else BARS[int((value - low) / span * (len(BARS) - 1))] for value in recent)
