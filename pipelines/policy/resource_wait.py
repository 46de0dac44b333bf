"""Waiting aloud: a cluster that lacks resources must not look like a run that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from pipelines.policy.resources import (
    DECIMALS,
    NodeResources,
    ResourceRequest,
    free_resources,
    nodes,
    pending_actors,
    place,
)

Result = TypeVar("Result")
REMIND_AFTER = 30.0  # seconds


async def wait_with_status(
    work: Awaitable[Result],
    demands: Sequence[ResourceRequest],
    log: Callable[[str], None],
    remedy: Callable[[], object] = lambda: None,
) -> Result:
    """Awaits `work`, which needs `demands`; every half minute says so, and tries the `remedy`."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=REMIND_AFTER))[0]:
            for demand in demands:
                log(describe_wait(demand))
            remedy()
    finally:
        task.cancel()
    return task.result()


def describe_wait(demand: ResourceRequest) -> str:
    """What is wanted and what of it the cluster has, in one line; see `missing`."""
    if demand.actors and not pending_actors(demand):
        return f"waiting for {demand.count} {demand.role} to load: they have their places"
    return f"waiting for {demand}: {describe_shortage(demand, nodes(), free_resources())}"


def describe_shortage(demand: ResourceRequest, nodes: Sequence[NodeResources], free: Sequence[NodeResources]) -> str:
    """What is wanted, registered and free on the nodes that may be used, given all nodes and what of each is free.

    "8 GPUs wanted, 5 registered, 1 free; 32 CPUs wanted, …". Where the sums would do but the single nodes do not, it
    says that too: nothing in the numbers would tell.
    """
    nodes, free = _usable(demand, nodes), _usable(demand, free)
    kinds = [
        f"{wanted:g} {kind} wanted, {have:g} registered, {left:g} free"
        for kind, wanted, have, left in zip(("GPUs", "CPUs"), _wanted(demand), _sums(nodes), _sums(free), strict=True)
        if wanted
    ]
    numbers = "; ".join(kinds) or "no GPUs or CPUs wanted"
    group = f" of group {demand.nodes}" if demand.nodes else ""
    scattered = _scattered(demand, nodes, "even when idle") or _scattered(demand, free, "now")
    return f"{numbers} on {len(nodes)} nodes{group}{scattered}"


def _scattered(demand: ResourceRequest, rooms: Sequence[NodeResources], when: str) -> str:
    """What keeps `demand` from `rooms` that hold enough of all in sum; "" where they do not, or it finds its places."""
    enough = all(have >= wanted for have, wanted in zip(_sums(rooms), _wanted(demand), strict=True))
    placed = place(demand, [room.copy() for room in rooms])
    if not enough or placed == demand.count:
        return ""
    if demand.placement == "strict_pack":
        return f", but no single node has all of it {when}, as policy.learner.placement=strict_pack asks"
    if demand.placement == "strict_spread":
        asked = f"policy.learner.placement=strict_spread asks for {demand.count}"
        return f", but only {placed} nodes have room for one {when}, and {asked}"
    return f", but node by node only {placed} of {demand.count} fit {when}"


def _usable(demand: ResourceRequest, rooms: Sequence[NodeResources]) -> list[NodeResources]:
    """Those in the node group that `demand` names."""
    return [room for room in rooms if demand.may_use(room.group)]


def _wanted(demand: ResourceRequest) -> tuple[float, float]:
    """GPUs and CPUs of all its processes."""
    return round(demand.count * demand.gpus, DECIMALS), round(demand.count * demand.cpus, DECIMALS)


def _sums(rooms: Sequence[NodeResources]) -> tuple[float, float]:
    """GPUs and CPUs of all rooms."""
    return round(sum(room.gpus for room in rooms), DECIMALS), round(sum(room.cpus for room in rooms), DECIMALS)
