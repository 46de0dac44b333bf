"""Is there room? What the roles of a run want of the cluster, whether it can ever hold it, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray._private.state import state

from actors.process import NODE_GROUP
from conf.detector import DetectorSettings
from conf.policy import PolicySettings
from conf.reward import RewardPoolSettings
from conf.settings import Settings


@dataclass(frozen=True)
class Demand:
    """So many processes of one role, each of which must fit on one node."""

    role: str
    count: int
    cpus: float
    gpus: float
    nodes: str  # the node group that must hold them; "": any
    mend: str  # which settings make it smaller

    def __str__(self) -> str:
        where = f" on nodes of group {self.nodes}" if self.nodes else ""
        return f"{self.count} {self.role} of {self.cpus:g} CPUs and {self.gpus:g} GPUs{where}"


@dataclass(frozen=True)
class Replicas:
    """One reward's replicas at one moment."""

    demand: Demand
    running: int


@dataclass
class Room:
    """One node, or one that an autoscaler may add."""

    cpus: float
    gpus: float
    group: str | None = ""  # None: a node of whichever group is asked for

    def take(self, demand: Demand) -> bool:
        """Places one process of `demand` here, if it fits."""
        fits = (
            self.cpus >= demand.cpus
            and self.gpus >= demand.gpus
            and (self.group is None or demand.nodes in ("", self.group))
        )
        if fits:
            self.cpus -= demand.cpus
            self.gpus -= demand.gpus
        return fits


def rollout_demand(policy: PolicySettings) -> Demand:
    """The rollout actors that a run cannot do without."""
    return Demand(
        "rollout actors", policy.min_rollout_actors, policy.rollout_cpus, policy.rollout_gpus, policy.rollout_nodes,
        "policy.min_rollout_actors, policy.rollout_cpus or policy.rollout_gpus",
    )  # fmt: skip


def learner_demand(policy: PolicySettings) -> Demand:
    """The learner's ranks."""
    return Demand(
        "learner ranks", policy.learner_ranks, policy.learner_cpus, policy.learner_gpus, policy.learner_nodes,
        "policy.learner_ranks, policy.learner_cpus or policy.learner_gpus",
    )  # fmt: skip


def spatialscore_demand(pool: RewardPoolSettings) -> Demand:
    """The replicas of SpatialScore that a run cannot do without."""
    return Demand(
        "SpatialScore replicas", pool.min_replicas, pool.cpus, pool.gpus, pool.nodes,
        "pool.min_replicas, pool.cpus or pool.gpus",
    )  # fmt: skip


def rules_demand(pool: RewardPoolSettings) -> Demand:
    """The replica of the exact checker."""
    return Demand("exact checker", 1, pool.cpus, 0.0, "", "pool.cpus")


def judge_demand(pool: RewardPoolSettings) -> Demand:
    """The replica that asks the judge behind an endpoint."""
    return Demand("judge's client", 1, pool.cpus, 0.0, "", "pool.cpus")


def detector_demand(own: DetectorSettings) -> Demand:
    """The replicas of the detector that gives rule rewards."""
    return Demand(
        "detector replicas", own.replicas, own.cpus, own.gpus, own.nodes,
        "detector.replicas, detector.cpus or detector.gpus",
    )  # fmt: skip


def reward_demands(settings: Settings) -> tuple[Demand, ...]:
    """Those of the rewards that have a weight."""
    mix, pool = settings.mix, settings.pool
    weighed = (
        (mix.spatialscore, spatialscore_demand(pool)), (mix.rules, rules_demand(pool)),
        (mix.judge, judge_demand(pool)), (mix.detector, detector_demand(settings.detector)),
    )  # fmt: skip
    return tuple(demand for weight, demand in weighed if weight)


def demands(settings: Settings) -> tuple[Demand, ...]:
    """All roles of a run."""
    return (learner_demand(settings.policy), *reward_demands(settings), rollout_demand(settings.policy))


def rooms() -> list[Room]:
    """The nodes that are there; where an autoscaler may add others, its limit as one node of any group."""
    limits = autoscaler_limits()
    return registered() if limits is None else [Room(*limits, group=None)]


def check_capacity(settings: Settings) -> None:
    """Raises ValueError, saying what is wanted, what there is and how to mend it, if the cluster can never hold a run.

    A private cluster is what it is. One with an autoscaler may grow to its limits. On any other one nodes may still
    be added by hand, so a run that finds no room waits there, and says what for.
    """
    private = settings.ray_address == "local"
    if autoscaler_limits() is None and not private:
        return
    if missing := shortage(demands(settings), rooms()):
        raise ValueError(missing)


def shortage(demands: Sequence[Demand], rooms: Sequence[Room]) -> str:
    """Places every process on the first node with room: those bound to a node group first, then the largest.

    Returns what has no place, or "".
    """
    have = f"{sum(room.cpus for room in rooms):g} CPUs and {sum(room.gpus for room in rooms):g} GPUs"
    left = [Room(room.cpus, room.gpus, room.group) for room in rooms]
    for demand in sorted(demands, key=lambda demand: (demand.nodes != "", demand.gpus, demand.cpus), reverse=True):
        placed = sum(any(room.take(demand) for room in left) for _ in range(demand.count))
        if placed < demand.count:
            wanted = "; ".join(map(str, demands))
            return (
                f"a run must find room for all of: {wanted}. The cluster has {have} on {len(rooms)} nodes, where "
                f"{demand.count - placed} of the {demand.role} have no place: lower {demand.mend}, or add nodes"
            )
    return ""


def registered() -> list[Room]:
    """The nodes that are alive."""
    return [
        Room(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0), node["Labels"].get(NODE_GROUP, ""))
        for node in ray.nodes()
        if node["Alive"]
    ]


def autoscaler_limits() -> tuple[float, float] | None:
    """CPUs and GPUs that an autoscaler may go up to; None where there is none, or it has no limits."""
    # private: Ray tells an autoscaler's limits nowhere else (2.60); its own Train and Data ask here
    limits = state.get_max_resources_from_cluster_config()
    return (float(limits.get("CPU", 0)), float(limits.get("GPU", 0))) if limits else None
