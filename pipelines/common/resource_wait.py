"""Waits for resources and logs what is missing, so that the wait does not look like a run that is stuck."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from pipelines.common.cluster_state import DECIMALS, ClusterState, NodeResources, read_cluster
from pipelines.common.resources import ResourceRequest

Result = TypeVar("Result")
STATUS_PERIOD_S = 30.0
"""Seconds between two messages about what is waited for."""


async def wait_with_status(
    work: Awaitable[Result],
    requests: Sequence[ResourceRequest],
    log: Callable[[str], None],
    on_wait: Callable[[], object] = lambda: None,
    period_s: float | None = None,
    read: Callable[[], ClusterState] = read_cluster,
) -> Result:
    """Awaits `work`, which needs `requests`. Every `period_s` seconds it logs what is missing and calls `on_wait`.

    The default of `period_s` is STATUS_PERIOD_S. `read` returns the state of the cluster.
    """
    period_s = STATUS_PERIOD_S if period_s is None else period_s
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=period_s))[0]:
            cluster = read()
            for request in requests:
                log(describe_wait(request, cluster))
            on_wait()
    finally:
        task.cancel()
    return task.result()


@contextmanager
def logging_waits(
    requests: Sequence[ResourceRequest],
    log: Callable[[str], None],
    period_s: float | None = None,
    read: Callable[[], ClusterState] = read_cluster,
) -> Generator[None]:
    """While the block runs, logs every `period_s` seconds which of `requests` Ray cannot place, and what is missing.

    For libraries of Ray that start processes on their own. The default of `period_s` is STATUS_PERIOD_S. `log` is
    called in another thread.
    """
    period, ended = STATUS_PERIOD_S if period_s is None else period_s, threading.Event()

    def watch() -> None:
        while not ended.wait(period):
            try:
                cluster = read()
            except (RuntimeError, OSError) as error:  # the next state may be readable
                logging.debug("the state of the cluster cannot be read: %s", error)
                continue
            for request in requests:
                if cluster.is_pending(request.cpus, request.gpus):
                    log(describe_wait(request, cluster))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def describe_wait(request: ResourceRequest, cluster: ClusterState) -> str:
    """Says in one line what is requested and what the cluster has of it, or that the models are loading."""
    if not cluster.is_pending(request.cpus, request.gpus):
        return f"waiting for {request.count} {request.role} to load: all of them have a node"
    return f"waiting for {request}: {describe_shortage(request, cluster.nodes)}"


def describe_shortage(request: ResourceRequest, nodes: Sequence[NodeResources]) -> str:
    """Says what is requested, and what is registered and free on the nodes that may be used.

    For example "8 GPUs requested, 5 registered, 1 free; 32 CPUs requested, 40 registered, 40 free on 1 nodes". If
    enough is free in sum, it also says how many nodes have enough for one process.
    """
    usable = request.nodes_in_group(nodes)
    gpus = sum(node.gpus for node in usable), round(sum(node.free_gpus for node in usable), DECIMALS)
    cpus = sum(node.cpus for node in usable), round(sum(node.free_cpus for node in usable), DECIMALS)
    parts = [
        f"{requested:g} {kind} requested, {registered:g} registered, {free:g} free"
        for kind, requested, (registered, free) in (
            ("GPUs", request.total_gpus, gpus),
            ("CPUs", request.total_cpus, cpus),
        )
        if requested
    ]
    numbers = "; ".join(parts) or "no GPUs or CPUs requested"
    group = f" of group {request.node_group}" if request.node_group else ""
    scattered = ""
    if request.total_gpus <= gpus[1] and request.total_cpus <= cpus[1]:
        fitting = sum(request.fits(node.free_cpus, node.free_gpus) for node in usable)
        together = "all of them" if request.placement == "strict_pack" else "one of them"
        needed = f", and {request.min_nodes} such nodes are needed" if request.min_nodes > 1 else ""
        scattered = f"; {fitting} of the nodes have enough free for {together}{needed}"
    return f"{numbers} on {len(usable)} nodes{group}{scattered}"
