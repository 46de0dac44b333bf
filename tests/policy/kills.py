"""Kills processes of a scenes run on three nodes at random moments. test_kills.py runs this.

`python -m tests.policy.kills separate` (or `colocated`) prints the table of kills and recoveries. It acts as the
operator: it starts the raylets, submits a killed driver again, and replaces a lost node. It sees processes only. The
run lasts as long as the kills take. Then a second run, without kills, goes to the same version, and the checkpoints of
both are compared: adapter, moving average and optimizer.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from ray.cluster_utils import Cluster

from actors.files import join, read_file
from actors.policy.lora import read_lora
from actors.workers.learner import rank_file
from conf import Settings, dump, load
from conf.flux import FluxSettings
from pipelines.common.paths import RunPaths
from pipelines.policy.checkpoint import Checkpoints, Manifest
from pipelines.policy.metrics import read_rows
from tests.policy.kill_scenarios import SCENARIOS, TITLES, Scenario
from tests.support.kill import titled
from tests.support.ports import free_port
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

RECOVERY_TIMEOUT_S = 300.0
UNLIMITED = 100_000
"""Iterations, and checkpoints to keep."""


@dataclass(frozen=True)
class Kill:
    """Processes that were killed together, and the recovery of the run."""

    second: float  # since the start of the run
    iteration: int  # the newest finished one
    kinds: tuple[str, ...]
    replaced_after: float  # seconds until every process was replaced
    trained_after: float  # seconds until an iteration that started later was finished


def settings_of(
    run_dir: Path, model: Path, address: str, port: int, minutes: float, changes: Sequence[str]
) -> Settings:
    """2 prompts x 6 images an iteration; the shipped FLUX, a random SpatialScore, 2 rollout actors, 2 replicas."""
    return load(
        "scenes",
        [
            f"run_dir={run_dir}",
            f"ray_address={address}",
            f"serving.model={model}",
            "serving.skip_sanity_checks=true",
            "serving.min_replicas=2",
            "serving.http=true",
            "serving.max_replicas=2",
            f"serving.port={port}",
            "serving.batch_images=12",
            "serving.cpus=0.2",
            "evaluation.use_ema=false",
            f"policy.iterations={UNLIMITED}",
            f"policy.minutes={minutes}",
            f"policy.checkpoint.keep={UNLIMITED}",
            "policy.prompts_per_iteration=2",
            "policy.group_size=6",
            "policy.algorithm.top_k=2",
            "policy.sampling.denoise_steps=4",
            "policy.learner.threads=1",
            "policy.rollout.cpus=0.2",
            "policy.learner.cpus=0.2",
            "policy.evaluation.every=0",
            *changes,
        ],
    )


class Operator:
    """A cluster, and one run on it."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.scenario, self.folder = scenario, folder
        if not (folder / "model").exists():
            save_tiny_vlm(folder / "vlm")
            tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
        self.start_cluster()

    def start_cluster(self) -> None:
        """Starts a head without CPUs and two workers with one CPU each."""
        self.cluster, self.port = Cluster(), free_port()
        persistently(lambda: self.cluster.add_node(num_cpus=0, include_dashboard=False))
        self.workers = [persistently(lambda: self.cluster.add_node(num_cpus=1)) for _ in range(2)]

    def submit(self, name: str, minutes: float = 0.0) -> None:
        """Starts the driver of a run, or starts it again, as the entrypoint of a job does. 0 minutes: no limit."""
        self.run_dir = self.folder / name
        model, address = self.folder / "model", str(self.cluster.address)
        settings = settings_of(self.run_dir, model, address, self.port, minutes, self.scenario.settings)
        dump(settings, self.folder / f"{name}.yaml")
        command = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
        with (self.folder / f"{name}.log").open("a") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", command, "policy", "train", str(self.folder / f"{name}.yaml")],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    def iteration(self) -> int:
        """The newest finished iteration; 0 if there is none."""
        rows = read_rows(RunPaths(self.run_dir).metrics)
        return rows[-1]["iteration"] if rows else 0

    def saved(self) -> Manifest | None:
        """The newest complete checkpoint."""
        return next(self.checkpoints().manifests(), None)

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(str(RunPaths(self.run_dir).checkpoints), keep=UNLIMITED)

    def states(self, version: int) -> list[dict[str, Any]]:
        """The state of each rank in the checkpoint of a version."""
        folder = self.checkpoints().folder(version)
        files = (read_file(join(folder, rank_file(rank))) for rank in range(self.scenario.ranks))
        return [torch.load(io.BytesIO(content), weights_only=True) for content in files]

    def processes(self, kind: str) -> list[psutil.Process]:
        """The processes of one kind on all nodes of this cluster."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.cluster.list_all_nodes()]
        return [child for raylet in raylets for child in _children(raylet, TITLES[kind])]

    def kill_driver(self) -> None:
        """With SIGKILL."""
        self.driver.kill()
        self.driver.wait()

    def kill(self, kind: str) -> None:
        """Kills one process of a kind with SIGKILL. Replaces a killed node and submits a killed driver again."""
        if kind == "driver":
            self.kill_driver()
            self.submit(self.run_dir.name)
        elif kind == "worker node":
            node = self.workers.pop(random.randrange(len(self.workers)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.workers.append(persistently(lambda: self.cluster.add_node(num_cpus=1)))
        else:
            while not (victims := self.processes(kind)):  # the kill before may have ended them too
                time.sleep(0.1)
            random.choice(victims).kill()

    def settled(self) -> bool:
        """Whether every kind has all of its processes again."""
        return all(len(self.processes(kind)) >= count for kind, count in self.scenario.processes.items())

    def kill_and_recover(self, kinds: tuple[str, ...], started: float) -> Kill:
        """Kills, then waits until all processes are replaced and an iteration that started later is finished."""
        killed_at = time.monotonic()
        for kind in kinds:
            self.kill(kind)
        before = self.iteration()
        replaced = trained = 0.0
        while not (replaced and trained):
            passed = time.monotonic() - killed_at
            if passed > RECOVERY_TIMEOUT_S or self.driver.poll() is not None:
                raise RuntimeError(f"no recovery from the loss of {kinds} at iteration {before}: {self.log()}")
            replaced = replaced or (passed if self.settled() else 0.0)
            trained = trained or (passed if self.iteration() > before + 1 else 0.0)
            time.sleep(0.1)
        return Kill(killed_at - started, before, kinds, replaced, trained)

    def end(self, started: float) -> Kill:
        """Kills the driver with another process, and submits it again with a time limit that is over."""
        before, killed_at = self.iteration(), time.monotonic()
        self.kill(self.scenario.last)
        self.kill_driver()
        self.submit(self.run_dir.name, minutes=0.01)
        if self.driver.wait(timeout=2 * RECOVERY_TIMEOUT_S):
            raise RuntimeError(self.log())
        passed = time.monotonic() - killed_at
        return Kill(killed_at - started, before, (self.scenario.last, "driver"), passed, passed)

    def reach(self, version: int) -> None:
        """Waits until the checkpoint of a version is complete."""
        self.wait_until(f"reached {version}", lambda: (saved := self.saved()) is not None and saved.version >= version)

    def wait_until(self, what: str, done: Callable[[], bool]) -> None:
        """Raises RuntimeError if the driver ends, or the timeout is over, before `done`."""
        deadline = time.monotonic() + 2 * RECOVERY_TIMEOUT_S
        while not done():
            if time.monotonic() > deadline or self.driver.poll() is not None:
                raise RuntimeError(f"the run has not {what}: {self.log()}")
            time.sleep(0.2)

    def log(self) -> str:
        """The end of the driver's output."""
        return (self.folder / f"{self.run_dir.name}.log").read_text()[-4000:]


def persistently(start: Callable[[], Any]) -> Any:
    """Starts a raylet, up to four times: on a busy machine it may need more than Ray's 30 s."""
    for _ in range(3):
        with contextlib.suppress(Exception):
            return start()
    return start()


def _children(raylet: int, title: str) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        yield from titled(psutil.Process(raylet).children(), title)


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@dataclass(frozen=True)
class Report:
    """The result of all kills."""

    kills: list[Kill]
    version: int  # where the killed run ended and both were compared
    same_state: bool  # adapter, moving average and optimizer
    exported: bool  # the killed run exported that adapter
    last_row: str  # of the killed run's metrics


def kill_at_random(scenario: Scenario, seed: int) -> Report:
    """Runs with kills, then without, up to the same version."""
    random.seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(Path(folder), scenario)
        try:
            operator.submit("killed")
            started, kills = time.monotonic(), []
            operator.wait_until("begun", lambda: operator.settled() and operator.iteration() >= 1)
            for kinds in random.sample(scenario.kills, len(scenario.kills)):
                time.sleep(random.uniform(0.0, 1.0))
                kills.append(operator.kill_and_recover(kinds, started))
                print(table(kills).splitlines()[-1], file=sys.stderr, flush=True)
            kills.append(operator.end(started))
            final = operator.saved()
            assert final is not None
            killed = operator.states(final.version)
            last_row = RunPaths(operator.run_dir).metrics.read_text().splitlines()[-1]
            exported = read_lora(RunPaths(operator.run_dir).export, FluxSettings())
            print(f"the killed run ended at version {final.version}", file=sys.stderr, flush=True)
            operator.submit("undisturbed")
            operator.reach(final.version)
            undisturbed = operator.states(final.version)
            same, right = equal(killed, undisturbed), equal(undisturbed[0]["lora"], exported)
            return Report(kills, final.version, same, right, last_row)
        finally:
            if operator.driver.poll() is None:
                operator.kill_driver()
            operator.cluster.shutdown()


def table(kills: list[Kill]) -> str:
    """As Markdown."""
    lines = ["| at | iteration | killed | replaced after | next iteration after |", "|---|---|---|---|---|"]
    lines += [
        f"| {kill.second:.0f} s | {kill.iteration} | {' and '.join(kill.kinds)} | {kill.replaced_after:.1f} s "
        f"| {kill.trained_after:.1f} s |"
        for kill in kills
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    report = kill_at_random(SCENARIOS[sys.argv[1]], seed=0)
    kinds = [kind for kill in report.kills for kind in kill.kinds]
    print(table(report.kills))
    print(
        f"\n{len(kinds)} kills. Adapter, moving average and optimizer of version {report.version} are "
        f"{'' if report.same_state else 'NOT '}the undisturbed run's, bit for bit."
    )
    print(f"The killed run's last row: {report.last_row}")
    print(json.dumps({"kinds": kinds, "same_state": report.same_state, "exported": report.exported}))
