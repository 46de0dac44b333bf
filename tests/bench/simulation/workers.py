"""What simulated rollout actors and learner ranks do, how long it takes, and a ledger of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.grpo.metrics import OptimizerStepMetrics
from actors.grpo.shares import WHOLE, GroupPart
from actors.types import PolicyWeights, SampleReport
from actors.workers.sampling_calls import WeightsHandle
from tests.bench.simulation.fleet import Barrier, Job, Ref

LOAD_CHECKPOINT_S = 5.0
"""A rank reads its state: well under 1 GB."""


@dataclass(frozen=True)
class Seconds:
    """Durations of the parts of an iteration on one GPU."""

    sample_image: float
    """Denoising and decoding, in a batch of the usual size."""
    learn_pass: float
    """One replay batch."""
    passes: int
    """Replay batches of a whole group."""
    score_group: float
    optimizer_step: float
    publish: float
    checkpoint: float
    start_rollout: float
    start_learner: float
    start_reward: float


@dataclass(frozen=True)
class Sampled:
    """What the reference of an image batch or a trajectory stands for."""

    seeds: tuple[int, ...]
    version: int


@dataclass
class Ledger:
    """What was sampled and learned. Seeds stand for images: each image of a run has its own."""

    sampled: Counter[int] = field(default_factory=Counter[int])
    """Seed -> finished sampling calls."""
    version_of: dict[int, int] = field(default_factory=dict[int, int])
    """Seed -> policy version that sampled it last."""
    learned: dict[int, list[tuple[tuple[int, ...], GroupPart]]] = field(
        default_factory=dict[int, list[tuple[tuple[int, ...], GroupPart]]]
    )
    """Policy version -> (seeds of the trajectories, part) that the last learner of this version accumulated."""
    _learner: dict[int, RanksState] = field(default_factory=dict[int, "RanksState"])

    def learn(self, learner: RanksState, version: int, seeds: tuple[int, ...], part: GroupPart) -> None:
        """A rank accumulated a part of a group. A learner that was started again begins its versions again."""
        if self._learner.get(version) is not learner:
            self._learner[version], self.learned[version] = learner, []
        self.learned[version].append((seeds, part))


class PolicyWorker:
    """A rollout actor, a learner rank, or both."""

    def __init__(self, seconds: Seconds, ledger: Ledger, ranks: RanksState | None = None) -> None:
        self.seconds, self.ledger, self.ranks = seconds, ledger, ranks

    def job(self, name: str, args: Sequence[Any]) -> Job:
        """See Worker."""
        return getattr(self, f"_{name.strip('_')}")(*args)

    # --- rollout actor ----------------------------------------------------------------------------------------------

    def _ready(self) -> Job:
        return Job("other", 0.0, lambda: [True])

    def _sample_group(self, text: str, seeds: Sequence[int], weights: WeightsHandle, plan: object, *_: object) -> Job:
        seconds = len(seeds) * self.seconds.sample_image

        def results() -> Sequence[Any]:
            for seed in seeds:
                self.ledger.sampled[seed] += 1
                self.ledger.version_of[seed] = weights.version
            report = SampleReport(weights.version, len(seeds), seconds)
            images = Sampled(tuple(seeds), weights.version)
            return [report, images, None, *(Sampled((seed,), weights.version) for seed in seeds)]

        return Job("sample", seconds, results)

    # --- learner rank -----------------------------------------------------------------------------------------------

    def _ray_ready(self) -> Job:
        return Job("other", 0.0, lambda: [True])

    def _open_store(self) -> Job:
        return Job("other", 0.0, lambda: ["10.0.0.1:1"])

    def _start(self, address: str) -> Job:
        return Job("load", 0.0, lambda: [0], self._group.barrier)

    def _load(self, folder: str, digests: object) -> Job:
        version = int(folder.rsplit("/", 1)[-1])

        def results() -> Sequence[int]:
            self._group.version = version
            return [version]

        return Job("load", LOAD_CHECKPOINT_S, results)

    def _load_note(self) -> Job:
        return Job("other", 0.0, lambda: [""])

    def _accumulate(self, version: int, *args: Any) -> Job:
        if version != self._group.version:
            raise ValueError(f"a group for version {version} reached a rank of version {self._group.version}")
        part, trajectories = (args[0], args[3:]) if isinstance(args[0], GroupPart) else (WHOLE, args[2:])
        seeds = tuple(seed for reference in trajectories for seed in reference.value.seeds)

        def results() -> Sequence[None]:
            self.ledger.learn(self._group, version, seeds, part)
            return [None]

        passes = len(part.cut(range(self.seconds.passes)))
        return Job("learn", passes * self.seconds.learn_pass, results)

    def _optimizer_step(self, grad_divisor: float) -> Job:
        step = OptimizerStepMetrics(
            loss=0.0, kl=0.0, base_distance=0.0, ratio_mean=1.0, ratio_drift=0.0, clip_fraction=0.0, grad_norm=1.0,
            lr=3e-4, rows=1, regularizer_rows=0, samples=1, applied=True,
        )  # fmt: skip
        return Job("learn", self.seconds.optimizer_step, lambda: [step], self._group.barrier)

    def _end_iteration(self) -> Job:
        group, version = self._group, self._group.version + 1

        def results() -> Sequence[int]:
            group.ended += 1
            if group.ended == group.size:
                group.ended, group.version = 0, version
                group.on_version(version)
            return [version]

        return Job("other", 0.0, results, group.barrier)

    def _publish(self, averaged: bool) -> Job:
        version = self._group.version
        return Job("other", self.seconds.publish, lambda: [version, PolicyWeights(version, {})])

    def _state(self) -> Job:
        return Job("other", 0.1, lambda: [b"state"])

    @property
    def _group(self) -> RanksState:
        assert self.ranks
        return self.ranks


class RanksState:
    """What all ranks of one learner share: their version, and the collectives."""

    def __init__(self, size: int, on_version: Callable[[int], None]) -> None:
        """`on_version` is called with each new version."""
        self.size, self.on_version = size, on_version
        self.version = self.ended = 0
        self.barrier = Barrier(size)


def images_of(references: Sequence[Ref[Sampled]]) -> Ref[Sampled]:
    """One reference for the images of several calls."""
    seeds = tuple(seed for reference in references for seed in reference.value.seeds)
    return Ref(Sampled(seeds, references[0].value.version))
