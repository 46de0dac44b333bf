"""What processes request from Ray, and whether a cluster can hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from conf import UserError
from conf.settings import Settings
from pipelines.common.cluster_address import uses_private_cluster
from pipelines.common.cluster_state import DECIMALS, NodeResources, read_cluster
from pipelines.common.node_limits import VARIABLE, largest_cluster

Placement = Literal["pack", "spread", "strict_pack", "strict_spread"]
TOLERANCE = 10**-DECIMALS / 2
"""Sums of fractions are rounded."""
_PLACEMENT_TEXT = {"strict_pack": ", all on one node", "strict_spread": ", each on another node"}


@dataclass(frozen=True)
class ResourceRequest:
    """`count` processes of one role. Each process must fit on one node."""

    role: str
    count: int
    cpus: float
    """CPUs of one process."""
    gpus: float
    """GPUs of one process; may be a fraction."""
    node_group: str
    """The node group that must hold the processes; "" for any node."""
    hint: str
    """The settings that make the request smaller."""
    placement: Placement = "pack"
    """`policy.learner.placement`; the other roles have no placement."""

    def __str__(self) -> str:
        nodes = f" on nodes of group {self.node_group}" if self.node_group else ""
        return (
            f"{self.count} {self.role} of {self.cpus:g} CPUs and {self.gpus:g} GPUs{nodes}"
            f"{_PLACEMENT_TEXT.get(self.placement, '')}"
        )

    @property
    def total_cpus(self) -> float:
        """CPUs of all processes."""
        return round(self.count * self.cpus, DECIMALS)

    @property
    def total_gpus(self) -> float:
        """GPUs of all processes."""
        return round(self.count * self.gpus, DECIMALS)

    def nodes_in_group(self, nodes: Sequence[NodeResources]) -> list[NodeResources]:
        """The nodes that may hold the processes."""
        return [node for node in nodes if self.node_group in ("", node.group)]

    def fits(self, cpus: float, gpus: float) -> bool:
        """Whether one node with this many CPUs and GPUs can hold one process, or all of them with `strict_pack`."""
        if self.placement == "strict_pack":
            return self.total_cpus <= cpus and self.total_gpus <= gpus
        return self.cpus <= cpus and self.gpus <= gpus

    @property
    def min_nodes(self) -> int:
        """On how many nodes the processes must at least run."""
        return self.count if self.placement == "strict_spread" else min(self.count, 1)


def check_requests(settings: Settings, requests: Sequence[ResourceRequest]) -> None:
    """Raises UserError if the cluster can never hold `requests` at once.

    A private cluster never grows. A shared one may, up to the limits that its manifest states. Where none are known,
    nodes may be added by an autoscaler or by hand, so a run that lacks resources waits and logs what it waits for.
    """
    private = uses_private_cluster(settings)
    nodes = read_cluster().nodes if private else largest_cluster()
    if nodes is None:
        return
    if shortage := unschedulable(requests, nodes):
        largest = "" if private else f". This is the cluster at its largest ({VARIABLE} of its head)"
        raise UserError(f"{shortage}{largest}")


def check_each(settings: Settings, requests: Sequence[ResourceRequest]) -> None:
    """Raises UserError if the cluster can never hold one process of one of `requests`.

    For work that Ray Data can do with fewer processes than requested, and one role after another.
    """
    for request in requests:
        check_requests(settings, [replace(request, count=min(request.count, 1))])


def unschedulable(requests: Sequence[ResourceRequest], nodes: Sequence[NodeResources]) -> str:
    """Says why `nodes` cannot hold all `requests` at once, and how to fix it. Empty if no reason is found.

    This compares sums, over all nodes and over each node group, and every process with the single nodes and with what
    others leave of each GPU. It does not plan which process goes where: Ray does, so requests that pass may still have
    to wait.
    """
    for request in requests:
        large_enough = sum(request.fits(node.cpus, node.gpus) for node in request.nodes_in_group(nodes))
        if large_enough < request.min_nodes:
            looser = ", set policy.learner.placement=pack" if request.placement in _PLACEMENT_TEXT else ""
            return (
                f"a run needs {request}, but only {large_enough} of the {len(nodes)} nodes of the cluster are large "
                f"enough: lower {request.hint}{looser}, or add nodes"
            )
    for group in {"", *(request.node_group for request in requests)}:
        bound = [request for request in requests if group in ("", request.node_group)]
        inside = [node for node in nodes if group in ("", node.group)]
        cpus, gpus = sum(node.cpus for node in inside), sum(node.gpus for node in inside)
        if sum(r.total_cpus for r in bound) > cpus + TOLERANCE or sum(r.total_gpus for r in bound) > gpus + TOLERANCE:
            name = f"node group {group}" if group else "cluster"
            return (
                f"a run needs all of: {'; '.join(map(str, bound))}. The {name} has {cpus:g} CPUs and {gpus:g} GPUs on "
                f"{len(inside)} nodes: lower {' or '.join(request.hint for request in bound)}, or add nodes"
            )
    return _too_little_left(requests, sum(int(node.gpus) for node in nodes))


def _too_little_left(requests: Sequence[ResourceRequest], gpus: int) -> str:
    """Says which processes find no GPU with enough left beside those that need more than half of one. "" if none.

    A process uses a fraction of one GPU, or whole ones. Two that need more than half cannot share a GPU.
    """
    large = [request for request in requests if request.gpus > 0.5]
    shared = sorted(request.gpus for request in large for _ in range(request.count) if request.gpus < 1)
    whole = sum(int(request.gpus) * request.count for request in large)
    left = [1 - each for each in shared] + [1.0] * (gpus - whole - len(shared))
    for request in requests:
        if not 0 < request.gpus <= 0.5:
            continue
        room = sum(int((each + TOLERANCE) / request.gpus) for each in left)
        if room < request.count:
            return (
                f"a run needs {request}, but the {gpus} GPUs of the cluster have room for {room} beside "
                f"{' and '.join(map(str, large))}: lower {request.hint} or {' or '.join(r.hint for r in large)}, or "
                "add nodes"
            )
    return ""
