"""Which GPU of a run does what: the roles of a preset, packed onto as few GPUs as their fractions allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from conf import Settings
from conf.detector import DetectorSettings
from conf.rewards import RewardTerm

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Machine:
    """One GPU."""

    rank: int | None = None
    """The learner rank on it."""
    samples: bool = False
    scores: bool = False
    """Whether a replica of SpatialScore is on it."""
    rewards: tuple[str, ...] = ()
    """Names of the other rewards with a replica on it."""

    @property
    def roles(self) -> tuple[str, ...]:
        """What it does, for the report."""
        named = ((self.rank is not None, "learn"), (self.samples, "sample"), (self.scores, "score"))
        return (*(name for holds, name in named if holds), *self.rewards)


@dataclass
class _Gpu:
    """A GPU that is being filled."""

    free: float = 1.0
    rank: int | None = None
    samples: bool = False
    scores: bool = False
    rewards: list[str] = field(default_factory=list[str])


def machines(settings: Settings) -> list[Machine]:
    """The GPUs that the settings reserve at most. Empty if they reserve none.

    Rewards are placed last, where others leave room. A rank, a rollout actor or a replica of SpatialScore that reserves
    several GPUs uses, and counts as, one of them.
    """
    policy, gpus = settings.policy, list[_Gpu]()
    colocated = policy.placement == "colocated"
    if policy.learner.gpus:
        for rank in range(policy.learner.ranks):
            gpu = _Gpu(max(1.0 - policy.learner.gpus, 0.0), rank, samples=colocated)
            gpus.append(gpu)
    if policy.rollout.gpus:
        for _ in range(policy.rollout.max_actors):
            _with_room(gpus, policy.rollout.gpus).samples = True
    if settings.uses_reward("spatialscore") and settings.serving.gpus:
        for _ in range(settings.serving.max_replicas):
            _with_room(gpus, settings.serving.gpus).scores = True
    _place_other_rewards(gpus, settings)
    return [Machine(gpu.rank, gpu.samples, gpu.scores, tuple(gpu.rewards)) for gpu in gpus]


def is_on_gpus(fleet: Sequence[Machine]) -> bool:
    """Whether the policy samples and learns on these GPUs."""
    return any(machine.samples for machine in fleet) and any(machine.rank is not None for machine in fleet)


def placed_rewards(settings: Settings) -> Mapping[str, RewardTerm | DetectorSettings]:
    """The rewards beside SpatialScore -> the settings that place their replicas."""
    used = {name: term for name, term in settings.used_rewards().items() if term.kind_of(name) != "spatialscore"}
    return {name: settings.detector if term.kind_of(name) == "detector" else term for name, term in used.items()}


def gpus_of_other_rewards(settings: Settings) -> int:
    """The GPUs of the rewards beside SpatialScore, if they share them with each other alone."""
    gpus = list[_Gpu]()
    _place_other_rewards(gpus, settings)
    return len(gpus)


def _place_other_rewards(gpus: list[_Gpu], settings: Settings) -> None:
    for name, place in placed_rewards(settings).items():
        for _ in range(place.max_replicas if place.gpus else 0):
            _with_room(gpus, place.gpus).rewards.append(name)
            gpus += [_Gpu(0.0, rewards=[name]) for _ in range(ceil(place.gpus) - 1)]


def _with_room(gpus: list[_Gpu], share: float) -> _Gpu:
    """Reserves a share of the first GPU that has it, or of a new one."""
    for gpu in gpus:
        if share < 1 and gpu.free + TOLERANCE >= share:
            gpu.free -= share
            return gpu
    gpus.append(_Gpu(max(1.0 - share, 0.0)))
    return gpus[-1]
