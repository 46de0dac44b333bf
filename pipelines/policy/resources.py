"""Is there room? What the roles of a run want of the cluster, whether it can ever hold it, and how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import ray
from ray._private.state import state

from actors.worker_setup import NODE_GROUP
from conf.detector import DetectorSettings
from conf.policy import PolicySettings
from conf.serving import ServingSettings
from conf.settings import Settings

DECIMALS = 4
"""Ray counts CPUs and GPUs in ten-thousandths."""
_REPLICA = "ServeReplica:"
_WHERE = {"strict_pack": ", all on one node", "strict_spread": ", each on a node of its own"}


@dataclass(frozen=True)
class ResourceRequest:
    """So many processes of one role, each of which must fit on one node."""

    role: str
    count: int
    cpus: float
    gpus: float
    nodes: str  # the node group that must hold them; "": any
    hint: str  # which settings make it smaller
    placement: str = "pack"  # policy.learner.placement; the other roles have none
    actors: str = ""  # what the class names of its actors begin with, as Ray tells them

    def __str__(self) -> str:
        where = f" on nodes of group {self.nodes}" if self.nodes else ""
        return (
            f"{self.count} {self.role} of {self.cpus:g} CPUs and {self.gpus:g} GPUs{where}"
            f"{_WHERE.get(self.placement, '')}"
        )

    def may_use(self, group: str | None) -> bool:
        """Whether a node of that group (None: of whichever is asked for) is one to run on."""
        return group is None or self.nodes in ("", group)

    def piece(self) -> ResourceRequest:
        """What must fit on one node: one process, or all of them where they are packed strictly."""
        together = self.count if self.placement == "strict_pack" else 1
        # each is rounded before they are summed, as by Ray
        cpus, gpus = together * round(self.cpus, DECIMALS), together * round(self.gpus, DECIMALS)
        return replace(self, count=self.count // together, cpus=round(cpus, DECIMALS), gpus=round(gpus, DECIMALS))

    def shares(self) -> list[float]:
        """What a piece takes of single GPUs: Ray places a share on one, and more than one as whole ones."""
        together, own = self.count // self.piece().count, round(self.gpus, DECIMALS)
        each = [own] if own < 1 else [1.0] * int(own)
        return each * together if own else []


@dataclass(frozen=True)
class Replicas:
    """One reward's replicas at one moment."""

    request: ResourceRequest
    running: int


class NodeResources:
    """One node, or one that an autoscaler may add: its CPUs, and what is free of each of its GPUs."""

    def __init__(self, cpus: float, gpus: float, group: str | None = "") -> None:
        """`group` None: a node of whichever group is asked for. A broken number of GPUs is so many whole ones and a
        part of one: how free shares lie on a node's GPUs, Ray does not tell."""
        whole, part = divmod(round(gpus, DECIMALS), 1.0)
        self.cpus, self.group = cpus, group
        self._free = [1.0] * int(whole) + ([round(part, DECIMALS)] if part else [])

    @property
    def gpus(self) -> float:
        """The sum of what is free."""
        return round(sum(self._free), DECIMALS)

    def copy(self) -> NodeResources:
        """Another one with as much room."""
        other = NodeResources(self.cpus, 0.0, self.group)
        other._free = list(self._free)
        return other

    def take(self, demand: ResourceRequest) -> bool:
        """Places one piece of `demand` here, if it fits."""
        piece = demand.piece()
        cpus, free = round(self.cpus - piece.cpus, DECIMALS), list(self._free)
        if cpus < 0 or not demand.may_use(self.group):
            return False
        for share in demand.shares():
            fitting = [free_share for free_share in free if free_share >= share]
            if not fitting:
                return False
            fullest = free.index(min(fitting))
            free[fullest] = round(free[fullest] - share, DECIMALS)
        self.cpus, self._free = cpus, free
        return True


def rollout_request(policy: PolicySettings) -> ResourceRequest:
    """The rollout actors that a run cannot do without."""
    return ResourceRequest(
        "rollout actors", policy.rollout.min_actors, policy.rollout.cpus, policy.rollout.gpus, policy.rollout.node_group,
        "policy.rollout.min_actors, policy.rollout.cpus or policy.rollout.gpus", actors="Rollout",
    )  # fmt: skip


def learner_request(policy: PolicySettings) -> ResourceRequest:
    """The learner's ranks."""
    return ResourceRequest(
        "learner ranks", policy.learner.ranks, policy.learner.cpus, policy.learner.gpus, policy.learner.node_group,
        "policy.learner.ranks, policy.learner.cpus or policy.learner.gpus", policy.learner.placement,
        "LearnerRank",
    )  # fmt: skip


def spatialscore_request(pool: ServingSettings) -> ResourceRequest:
    """The replicas of SpatialScore that a run cannot do without."""
    return ResourceRequest(
        "SpatialScore replicas", pool.min_replicas, pool.cpus, pool.gpus, pool.node_group,
        "serving.min_replicas, serving.cpus or serving.gpus", actors=f"{_REPLICA}spatialscore",
    )  # fmt: skip


def rules_request(pool: ServingSettings) -> ResourceRequest:
    """The replica of the exact checker."""
    return ResourceRequest("exact checker", 1, pool.cpus, 0.0, "", "serving.cpus", actors=f"{_REPLICA}rules")


def judge_request(pool: ServingSettings) -> ResourceRequest:
    """The replica that asks the judge behind an endpoint."""
    return ResourceRequest("judge's client", 1, pool.cpus, 0.0, "", "serving.cpus", actors=f"{_REPLICA}judge")


def detector_request(own: DetectorSettings) -> ResourceRequest:
    """The replicas of the detector that gives rule rewards."""
    return ResourceRequest(
        "detector replicas", own.min_replicas, own.cpus, own.gpus, own.node_group,
        "detector.min_replicas, detector.cpus or detector.gpus", actors=f"{_REPLICA}detector",
    )  # fmt: skip


def reward_requests(settings: Settings) -> tuple[ResourceRequest, ...]:
    """Those of the rewards that have a weight."""
    mix, pool = settings.rewards, settings.serving
    weighed = (
        (mix.spatialscore, spatialscore_request(pool)), (mix.rules, rules_request(pool)),
        (mix.judge, judge_request(pool)), (mix.detector, detector_request(settings.detector)),
    )  # fmt: skip
    return tuple(demand for weight, demand in weighed if weight)


def resource_requests(settings: Settings) -> tuple[ResourceRequest, ...]:
    """All roles of a run."""
    return (learner_request(settings.policy), *reward_requests(settings), rollout_request(settings.policy))


def cluster_nodes() -> list[NodeResources]:
    """The nodes that are there; where an autoscaler may add others, its limit as one node of any group."""
    limits = autoscaler_limits()
    return nodes() if limits is None else [NodeResources(*limits, group=None)]


def check_capacity(settings: Settings) -> None:
    """Raises ValueError, saying what is wanted, what there is and how to mend it, if the cluster can never hold a run.

    A private cluster is what it is. One with an autoscaler may grow to its limits. On any other one nodes may still
    be added by hand, so a run that finds no room waits there, and says what for.
    """
    private = settings.ray_address == "local"
    if autoscaler_limits() is None and not private:
        return
    if missing := unschedulable(resource_requests(settings), cluster_nodes()):
        raise ValueError(missing)


def unschedulable(demands: Sequence[ResourceRequest], rooms: Sequence[NodeResources]) -> str:
    """Finds every role its places: those bound to a node group first, then one process a node, then the largest.

    Returns what has no place, or "".
    """

    def order(demand: ResourceRequest) -> tuple[bool, bool, float, float]:
        piece = demand.piece()
        return demand.nodes != "", demand.placement == "strict_spread", piece.gpus, piece.cpus

    have = f"{sum(room.cpus for room in rooms):g} CPUs and {sum(room.gpus for room in rooms):g} GPUs"
    left = [room.copy() for room in rooms]
    for demand in sorted(demands, key=order, reverse=True):
        placed = place(demand, left)
        if placed < demand.count:
            wanted = "; ".join(map(str, demands))
            looser = ", set policy.learner.placement=pack" if demand.placement in _WHERE else ""
            return (
                f"a run must find room for all of: {wanted}. The cluster has {have} on {len(rooms)} nodes, where "
                f"{demand.count - placed} of the {demand.role} have no place: lower {demand.hint}{looser}, or add nodes"
            )
    return ""


def place(demand: ResourceRequest, rooms: Sequence[NodeResources]) -> int:
    """Takes room for as many processes of `demand` as find it, each on the first node that has it. Returns how many.

    What an autoscaler may add is one room, of which nobody can say how many nodes it will be: there, processes that
    want a node each share it.
    """
    piece = demand.piece()
    if demand.placement == "strict_spread" and all(room.group is not None for room in rooms):
        smallest_first = sorted(rooms, key=lambda room: (room.gpus, room.cpus))  # large ones are left to large roles
        return sum(islice((1 for room in smallest_first if room.take(demand)), demand.count))
    placed = sum(any(room.take(demand) for room in rooms) for _ in range(piece.count))
    return placed * (demand.count // piece.count)


def nodes() -> list[NodeResources]:
    """The nodes that are alive."""
    return [_room(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]


def free_resources() -> list[NodeResources]:
    """The nodes that are alive, with what of each nobody has reserved."""
    # private: Ray's public call knows the sum over all nodes only (2.60)
    free = state.available_resources_per_node()
    return [_room(node, free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]]


def pending_actors(demand: ResourceRequest) -> int:
    """How many actors of that role Ray has found no node for. Those that have one, and load, do not count."""
    # private: Ray's public list of actors needs the dashboard, and does not tell these apart (2.60)
    return sum(
        actor["ActorClassName"].startswith(demand.actors)
        and actor["State"] in ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")
        and not actor["Address"]["IPAddress"]
        for actor in state.actor_table(None).values()
    )


def _room(node: Mapping[str, Any], resources: Mapping[str, float]) -> NodeResources:
    return NodeResources(resources.get("CPU", 0.0), resources.get("GPU", 0.0), node["Labels"].get(NODE_GROUP, ""))


def autoscaler_limits() -> tuple[float, float] | None:
    """CPUs and GPUs that an autoscaler may go up to; None where there is none, or it has no limits."""
    # private: Ray tells an autoscaler's limits nowhere else (2.60); its own Train and Data ask here
    limits = state.get_max_resources_from_cluster_config()
    return (float(limits.get("CPU", 0)), float(limits.get("GPU", 0))) if limits else None
