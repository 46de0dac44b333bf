"""Which GPU of a run does what: the roles of a preset, packed onto as few GPUs as their fractions allow."""

from __future__ import annotations

from dataclasses import dataclass

from conf import Settings

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Machine:
    """One GPU."""

    rank: int | None = None
    """The learner rank on it."""
    samples: bool = False
    scores: bool = False
    """Whether a replica of SpatialScore is on it."""

    @property
    def roles(self) -> tuple[str, ...]:
        """What it does, for the report."""
        named = ((self.rank is not None, "learn"), (self.samples, "sample"), (self.scores, "score"))
        return tuple(name for holds, name in named if holds)


@dataclass
class _Gpu:
    """A GPU that is being filled."""

    free: float = 1.0
    rank: int | None = None
    samples: bool = False
    scores: bool = False


def machines(settings: Settings) -> list[Machine]:
    """The GPUs that the settings reserve at most. Empty if they reserve none.

    A role that reserves several GPUs for a process uses one of them. Rewards other than SpatialScore are left out.
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
    return [Machine(gpu.rank, gpu.samples, gpu.scores) for gpu in gpus]


def _with_room(gpus: list[_Gpu], share: float) -> _Gpu:
    """Reserves a share of the first GPU that has it, or of a new one."""
    for gpu in gpus:
        if share < 1 and gpu.free + TOLERANCE >= share:
            gpu.free -= share
            return gpu
    gpus.append(_Gpu(max(1.0 - share, 0.0)))
    return gpus[-1]
