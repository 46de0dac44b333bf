"""`spatialt2i demo`: the four stages in order, each timed, and the report at the end."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from conf import Settings, dump
from pipelines.cluster import cluster
from pipelines.evaluation.run import evaluate
from pipelines.policy.stage import run_policy
from pipelines.preferences.build import build_preferences
from pipelines.reward.doctor import run_doctor
from pipelines.reward.doctor import table as checks_table
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.report import table as accuracy_table
from pipelines.reward.train import train_reward

Result = TypeVar("Result")


def command(settings: Settings) -> None:
    """`spatialt2i demo`."""
    with cluster(settings):
        demo(settings)


class Stopwatch:
    """Names each stage on the terminal and keeps its seconds in `timings.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = {}

    def stage(self, title: str, work: Callable[[], Result]) -> Result:
        """Runs `work` under a headline and returns what it returns."""
        print(f"\n── {title} " + "─" * max(4, 76 - len(title)), flush=True)
        start = time.monotonic()
        result = work()
        self.seconds[title] = round(time.monotonic() - start, 1)
        machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        self.path.write_text(json.dumps({"machine": machine, "seconds": self.seconds}, indent=1))
        return result


def demo(settings: Settings) -> Path:
    """Preferences, SpatialScore, GRPO, evaluation. Returns the report's path. A killed demo goes on when called again.

    Raises SystemExit where SpatialScore does not pass its examination.
    """
    run_dir = Path(settings.run_dir)
    dump(settings, run_dir / "settings.yaml")
    watch = Stopwatch(run_dir / "timings.json")
    pairs = watch.stage("1 · Preference pairs (Ray Data)", lambda: build_preferences(settings))
    print(f"{pairs.pairs} pairs, {pairs.test} of them held out, in {pairs.directory}")
    fitted = watch.stage("2 · SpatialScore (Ray Train)", lambda: train_reward(settings))
    print(f"{fitted.steps} steps on {fitted.pairs} pairs")
    report = watch.stage("2 · SpatialScore on held-out pairs", lambda: evaluate_reward(settings))
    print(accuracy_table(report))
    checks = watch.stage("2 · SpatialScore at the doctor's", lambda: run_doctor(settings))
    print(checks_table(checks))
    if not all(check.passed for check in checks):
        raise SystemExit("SpatialScore did not pass its examination and will not steer a policy")
    policy = watch.stage("3 · Top-k GRPO (Ray actors, Ray Serve)", lambda: run_policy(settings))
    print(f"{policy.version} policy versions in {policy.training_seconds:.0f} s of training")
    result = watch.stage("4 · Evaluation on held-out prompts", lambda: evaluate(settings))
    print(result)
    print(f"\nOpen {result.report} in a browser. The LoRA for diffusers: {policy.export}")
    return Path(result.report)
