"""One simulated run: settings for a number of GPUs, the driver over a fleet, and what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from actors.files import join, write_file
from actors.workers.learner_group import LearnerGroup
from conf.settings import Settings
from pipelines.common.cluster_state import ClusterState
from pipelines.common.paths import run_paths
from pipelines.policy.checkpoint import MANIFEST, Checkpoints, Manifest
from pipelines.policy.metrics import read_rows
from pipelines.policy.train import train_until_finished
from pipelines.policy.training_run import TrainingRun
from tests.bench.simulation.clock import VirtualLoop
from tests.bench.simulation.fleet import Fleet, Gpu, Kind, Ref, SimActor
from tests.bench.simulation.rewards import SimulatedRewards
from tests.bench.simulation.workers import Ledger, PolicyWorker, RanksState, Sampled, Seconds, images_of


@dataclass(frozen=True)
class Mark:
    """The state of a simulation when a policy version came into being."""

    version: int
    at: float
    """Virtual seconds."""
    driver_cpu: float
    """CPU seconds of the driver so far, without those of the simulated workers."""
    gpu_seconds: Mapping[Kind, float]
    calls: int
    returns: int


class SimulatedCluster:
    """See Cluster: starts simulated workers on a fleet."""

    def __init__(self, fleet: Fleet, settings: Settings, seconds: Seconds) -> None:
        self.fleet, self.settings, self.seconds = fleet, settings, seconds
        self.ledger, self.marks = Ledger(), list[Mark]()

    def start_rollout(self, number: int) -> SimActor:
        """See Cluster."""
        worker = PolicyWorker(self.seconds, self.ledger)
        return self.fleet.start(worker, self.settings.policy.rollout.gpus, self.seconds.start_rollout)

    def start_learner(self) -> LearnerGroup:
        """See Cluster."""
        policy = self.settings.policy
        state = RanksState(policy.learner.ranks, self._on_version)
        load = self.seconds.start_rollout if samples(self.settings) else self.seconds.start_learner
        ranks = [
            self.fleet.start(PolicyWorker(self.seconds, self.ledger, state), policy.learner.gpus, load)
            for _ in range(policy.learner.ranks)
        ]

        def release() -> None:
            for rank in ranks:
                self.fleet.end(rank)

        return LearnerGroup(ranks, release)

    def _on_version(self, version: int) -> None:
        fleet = self.fleet
        cpu = time.process_time() - fleet.stopwatch.seconds
        self.marks.append(Mark(version, fleet.loop.time(), cpu, fleet.activity.read(), fleet.calls, fleet.returns))

    def kill(self, actor: Any) -> None:
        """See Cluster."""
        self.fleet.end(actor)

    def state(self) -> ClusterState:
        """See Cluster: nothing is known to wait for a node."""
        return ClusterState((), frozenset())

    def join_images(self, images: Sequence[Ref[Sampled]]) -> Any:
        """See Cluster."""
        return images_of(images)

    def avoid(self, nodes: frozenset[str]) -> None:
        """See Cluster."""

    async def write_checkpoint(
        self, checkpoints: Checkpoints, manifest: Manifest, states: Mapping[str, Any], pinned: Collection[int]
    ) -> None:
        """See Cluster. Only the manifest is written: what the ranks hold is nothing."""
        contents = await asyncio.gather(*states.values())
        await asyncio.sleep(self.seconds.checkpoint)
        with self.fleet.stopwatch.running():
            files = {name: hashlib.sha256(content).hexdigest() for name, content in zip(states, contents, strict=True)}
            write_file(
                join(checkpoints.folder(manifest.version), MANIFEST),
                json.dumps(asdict(replace(manifest, files=files))).encode(),
            )
            checkpoints.prune(manifest.version, pinned)


def samples(settings: Settings) -> bool:
    """Whether the learner ranks sample too."""
    return settings.policy.placement == "colocated"


@dataclass(frozen=True)
class Outcome:
    """What a simulated run left behind."""

    marks: Sequence[Mark]
    rows: Sequence[dict[str, Any]]
    """Of metrics.jsonl."""
    ledger: Ledger
    seconds: float
    """Virtual seconds of the whole run."""
    failures: int


@dataclass(frozen=True)
class Failures:
    """GPUs fail, and with them the processes on them. Others can use such a GPU at once."""

    first_s: float
    """Virtual seconds until the first one."""
    period_s: float = 0.0
    """From one to the next. 0: there is no next one."""
    of_rank: bool = False
    """It is a GPU with a learner rank; otherwise any one, drawn by the simulation's seed."""


def simulate(
    settings: Settings,
    seconds: Seconds,
    gpus: int,
    failures: Failures | None = None,
    jitter: float = 0.0,
    seed: int = 0,
) -> Outcome:
    """Runs the driver with these settings until it is finished, in an event loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_simulate(settings, seconds, gpus, failures, jitter, seed))


async def _simulate(
    settings: Settings, seconds: Seconds, gpus: int, failures: Failures | None, jitter: float, seed: int
) -> Outcome:
    fleet = Fleet(gpus, jitter, seed)
    rewards, cluster = SimulatedRewards(fleet, settings, seconds), SimulatedCluster(fleet, settings, seconds)
    await rewards.start()
    run = TrainingRun(settings, rewards, lambda line: None, cluster)
    failed: list[Gpu] = []
    failing = asyncio.create_task(_fail(fleet, failures, np.random.default_rng(seed), failed)) if failures else None
    try:
        await train_until_finished(run)
    finally:
        if failing:
            failing.cancel()
        run.close()
        rewards.stop()
    rows = read_rows(run_paths(settings).metrics)
    return Outcome(cluster.marks, rows, cluster.ledger, fleet.loop.time(), len(failed))


async def _fail(fleet: Fleet, failures: Failures, rng: np.random.Generator, failed: list[Gpu]) -> None:
    """Lets GPUs fail, and adds them to `failed`."""
    await asyncio.sleep(failures.first_s)
    while True:
        gpus = [gpu for gpu in fleet.gpus if not failures.of_rank or any(_is_rank(actor) for actor in gpu.actors)]
        failed.append(gpus[int(rng.integers(len(gpus)))])
        fleet.fail(failed[-1])
        if not failures.period_s:
            return
        await asyncio.sleep(failures.period_s)


def _is_rank(actor: SimActor) -> bool:
    return isinstance(actor.worker, PolicyWorker) and actor.worker.ranks is not None
