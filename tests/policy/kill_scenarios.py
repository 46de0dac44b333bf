"""The runs of kills.py: what each one consists of, and what is killed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TITLES = {
    "rollout actor": "ray::Rollout",
    "reward replica": "ScoreReplica",
    "learner rank": "ray::LearnerRank",
    "policy worker": "ray::PolicyWorker",
    "Serve controller": "ray::ServeController",
    "Serve proxy": "ray::ProxyActor",
}
"""Kind -> part of its processes' titles."""


@dataclass(frozen=True)
class Scenario:
    """A run, its processes, and the kinds of each kill. The kills are made in random order."""

    settings: tuple[str, ...]
    processes: dict[str, int]
    """Kind -> how many there are."""
    kills: tuple[tuple[str, ...], ...]
    last: str
    """The kind that is killed last, together with the driver."""

    @property
    def ranks(self) -> int:
        """Learner ranks of the run."""
        return self.processes.get("learner rank", 0) + self.processes.get("policy worker", 0)


SEPARATE = Scenario(
    settings=(),
    processes={"rollout actor": 2, "reward replica": 2, "learner rank": 1, "Serve controller": 1, "Serve proxy": 1},
    kills=(
        ("rollout actor", "reward replica"),
        ("learner rank", "Serve controller"),
        ("Serve proxy", "rollout actor"),
        ("driver",),
        ("worker node",),
        ("rollout actor", "learner rank"),
    ),
    last="reward replica",
)

COLOCATED = Scenario(
    settings=(
        "policy.placement=colocated",
        "policy.learner.ranks=2",
        "policy.learner.engine=deepspeed",
        "policy.learner.replay_batch=3",  # several passes a group, so that a group is cut into a part for each rank
        "policy.sampling.batch=3",
        "policy.rollout.max_actors=1",
        "policy.rollout.min_actors=0",
        "policy.rollout.cpus=0.1",
    ),
    processes={"rollout actor": 1, "reward replica": 2, "policy worker": 2, "Serve controller": 1, "Serve proxy": 1},
    kills=(("policy worker",), ("policy worker", "worker node"), ("rollout actor", "policy worker")),
    last="policy worker",
)

SCENARIOS: dict[Literal["separate", "colocated"], Scenario] = {"separate": SEPARATE, "colocated": COLOCATED}
