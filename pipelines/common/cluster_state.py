"""What the nodes of the cluster have, what is free, and which processes Ray cannot place yet."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from actors.worker_setup import NODE_GROUP

DECIMALS = 4
"""Ray counts CPUs and GPUs in ten-thousandths."""


@dataclass(frozen=True)
class NodeResources:
    """CPUs and GPUs of one node."""

    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    group: str = ""
    """Its node group; "" if it has none."""
    id: str = ""
    """Ray's id."""


@dataclass(frozen=True)
class Bundle:
    """CPUs and GPUs of one process that waits for a node."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ClusterState:
    """The nodes of the cluster and the processes that Ray cannot place, at one moment."""

    nodes: tuple[NodeResources, ...]
    pending: frozenset[Bundle]

    def is_pending(self, cpus: float, gpus: float) -> bool:
        """Whether a process of this size waits for a node. Ray does not tell which role it belongs to."""
        return Bundle(round(cpus, DECIMALS), round(gpus, DECIMALS)) in self.pending


def read_cluster() -> ClusterState:
    """Reads the state of the cluster that Ray is connected to. `ray status` shows the same.

    A process that has a node and loads its model is not pending.
    """
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes: list[NodeResources] = []
    for node in (*status.active_nodes, *status.idle_nodes):
        usage = {each.resource_name: each for each in node.resource_usage.usage} if node.resource_usage else {}
        cpu, gpu = usage.get("CPU"), usage.get("GPU")
        nodes.append(
            NodeResources(
                cpus=cpu.total if cpu else 0.0,
                gpus=gpu.total if gpu else 0.0,
                free_cpus=round(cpu.total - cpu.used, DECIMALS) if cpu else 0.0,
                free_gpus=round(gpu.total - gpu.used, DECIMALS) if gpu else 0.0,
                group=(node.labels or {}).get(NODE_GROUP, ""),
                id=node.node_id or "",
            )
        )
    demands = (*status.resource_demands.ray_task_actor_demand, *status.resource_demands.placement_group_demand)
    pending = frozenset(
        Bundle(round(request.bundle.get("CPU", 0.0), DECIMALS), round(request.bundle.get("GPU", 0.0), DECIMALS))
        for demand in demands
        for request in demand.bundles_by_count
    )
    return ClusterState(tuple(nodes), pending)
