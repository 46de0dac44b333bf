"""Learning curves of stage 3 by objective: `python -m tests.bench.objectives RUN_DIR`; `--help` lists its options.

RUN_DIR is a run of the scenes world with a SpatialScore, e.g. runs/demo after `make demo`. All variants start from the
same base, with its own schedule of the learning rate over `--iterations`. Prints when each one has 85 % of the
relations of short held-out prompts and what it ends with, and writes RUN_DIR/objectives.html: the curves by images, by
time and by CPU time. Finished runs are kept in RUN_DIR/objectives, where `spatialt2i evaluate` can judge them.
It is not part of `make bench`: on two idle cores a run of 60 iterations takes about three minutes.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import ray

from conf import load
from conf.ablation import VARIANTS
from pipelines.common.charts import Series, line_chart
from pipelines.common.paths import run_paths
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.train import run_policy
from tests.bench.table import Line, show

TARGET = 0.85
FLOW_GRPO = (  # its FLUX recipe: pickscore_flux of yifan123/flow_grpo
    "policy.algorithm.top_k=0",
    "policy.algorithm.advantage_mean_over=group",
    "policy.algorithm.base_regularizer_weight=0",
    "policy.sampling.window=0",
    "policy.sampling.train_steps=0",
    "policy.sampling.clean_steps=0",
    "policy.sampling.noise_level=0.9",
    "policy.sampling.shared_initial_noise=false",
    "policy.optimizer.betas=[0.9,0.999]",
    "policy.optimizer.warmup_iterations=1",
    "policy.optimizer.final_lr_fraction=1",
    "policy.optimizer.ema_decay=0.9",
)
RUNS: dict[str, tuple[str, ...]] = {
    "grpo": (),
    "nft": VARIANTS["nft"],
    **{f"flow-grpo lr {lr}": (*FLOW_GRPO, f"policy.optimizer.lr={lr}") for lr in ("3e-4", "1e-3", "3e-3")},
}


@dataclass(frozen=True)
class Point:
    """One evaluation on held-out prompts."""

    images: int
    seconds: float
    cpu_seconds: float
    short: float
    long: float


def train(run_dir: Path, name: str, seed: int, iterations: int) -> list[Point]:
    """Trains one run, unless it is finished, and returns its curve."""
    folder = run_dir / "objectives" / f"{name.replace(' ', '-')}-{iterations}-{seed}"
    curve = folder / "curve.json"
    if not curve.exists():
        overrides = [
            f"run_dir={folder}", f"serving.model={run_dir / 'reward' / 'model'}", f"policy.seed={seed}",
            f"policy.iterations={iterations}", "policy.minutes=0", "policy.resume=never", "policy.evaluation.every=10",
            "policy.evaluation.prompts=192", "evaluation.denoise_steps=12", "policy.checkpoint.every=1000",
        ]  # fmt: skip
        settings = load("scenes", [*overrides, *RUNS[name]])
        cpu = CpuClock()
        run_policy(settings, cpu.log)
        rows = read_evaluations(run_paths(settings).evaluations)
        per_iteration = settings.policy.prompts_per_iteration * settings.policy.group_size
        curve.write_text(json.dumps([_values(row, cpu.after(row.iteration), per_iteration) for row in rows]))
    return [Point(*values) for values in json.loads(curve.read_text())]


def _values(row: EvaluationRow, cpu_seconds: float, per_iteration: int) -> tuple[float, ...]:
    return (
        row.iteration * per_iteration,
        row.training_seconds,
        cpu_seconds,
        row.relation_accuracy_short,
        row.relation_accuracy_long,
    )


class CpuClock:
    """CPU seconds of this process and its descendants, Ray's among them, during iterations, without evaluations."""

    def __init__(self) -> None:
        self._spent = {0: 0.0}
        self._last = cpu_seconds()

    def log(self, line: str) -> None:
        """Takes a line of the run's log: each iteration and each evaluation ends with one."""
        now = cpu_seconds()
        words = line.split()
        if words[:1] == ["iteration"]:
            self._spent[int(words[1].partition("/")[0])] = max(self._spent.values()) + now - self._last
        if words[:1] in (["iteration"], ["evaluation"]):
            self._last = now
        print(line.partition(" | ")[0], flush=True)

    def after(self, iteration: int) -> float:
        """Until the end of this iteration."""
        return self._spent[iteration]


def cpu_seconds() -> float:
    """User and system time of this process and of its descendants that are alive."""
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def reached(points: Sequence[Point], at: str) -> float:
    """The x at which a curve first has TARGET of the short relations; NaN if it never does."""
    return next((getattr(point, at) for point in points if point.short >= TARGET), float("nan"))


def lines_of(name: str, curves: Sequence[Sequence[Point]]) -> list[Line]:
    """One row for each seed."""
    return [
        Line(
            f"{name}, seed {seed}",
            f"{TARGET:.0%} short after {reached(points, 'images'):.0f} images, {reached(points, 'seconds'):.0f} s, "
            f"{reached(points, 'cpu_seconds'):.0f} CPU s; ends at {points[-1].short:.1%} short, {points[-1].long:.1%} "
            f"long after {points[-1].seconds:.0f} s, {points[-1].cpu_seconds:.0f} CPU s",
        )
        for seed, points in enumerate(curves)
    ]


def page_of(curves: dict[str, list[list[Point]]]) -> str:
    """The curves as charts: mean over seeds of the relations of short and long prompts."""
    colours = ("#0b6e4f", "#b3421b", "#2456a6", "#7a3e9d", "#8a6d00")
    style = "".join(f".c{i}{{stroke:{c};fill:{c}}}.name.c{i}{{stroke:none}}" for i, c in enumerate(colours))
    charts: list[str] = []
    for at, label in (("images", "images"), ("seconds", "seconds of training"), ("cpu_seconds", "CPU seconds")):
        for kind in ("short", "long"):
            series = [
                Series(name, f"c{i}", tuple(mean_curve(runs, at, kind)))
                for i, (name, runs) in enumerate(curves.items())
            ]
            charts.append(line_chart(f"relations correct, {kind} prompts", series, label, percent=True))
    return (
        "<!doctype html><meta charset=utf-8><title>Objectives</title><style>body{font:15px system-ui;max-width:70em;"
        f"margin:2em auto}}svg{{max-width:44em}}.grid{{stroke:#ddd}}.line{{fill:none;stroke-width:2}}{style}"
        f".line{{fill:none}}</style><h1>Objectives of stage 3</h1>{''.join(charts)}"
    )


def mean_curve(runs: Sequence[Sequence[Point]], at: str, kind: str) -> list[tuple[float, float]]:
    """(x, share), both averaged over seeds, at each evaluation."""
    return [
        (float(np.mean([getattr(point, at) for point in points])), float(np.mean([getattr(p, kind) for p in points])))
        for points in zip(*runs, strict=True)
    ]


def main() -> None:
    """Trains what is missing, then prints the table and writes the page."""
    parser = argparse.ArgumentParser(description="Learning curves of stage 3 by objective.")
    parser.add_argument("run_dir", type=Path, help="a run of the scenes world with a SpatialScore")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant, with seeds 0, 1, and so on")
    parser.add_argument("--iterations", type=int, default=60, help="iterations of a run")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="the variants")
    wanted = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        curves = {
            name: [train(wanted.run_dir, name, seed, wanted.iterations) for seed in range(wanted.seeds)]
            for name in wanted.only
        }
    finally:
        ray.shutdown()
    lines = [line for name, runs in curves.items() for line in lines_of(name, runs)]
    show(f"objectives, {wanted.iterations} iterations", lines)
    (wanted.run_dir / "objectives.html").write_text(page_of(curves))


if __name__ == "__main__":
    main()
