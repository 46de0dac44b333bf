"""Waiting aloud: a cluster that lacks resources must not look like a run that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import ray

from pipelines.policy.capacity import Demand, registered

Result = TypeVar("Result")
REMIND_AFTER = 30.0  # seconds


async def patiently(
    work: Awaitable[Result],
    demands: Sequence[Demand],
    say: Callable[[str], None],
    remedy: Callable[[], object] = lambda: None,
) -> Result:
    """Awaits `work`, which needs `demands`; every half minute says so, and tries the `remedy`."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=REMIND_AFTER))[0]:
            for demand in demands:
                say(waiting_for(demand))
            remedy()
    finally:
        task.cancel()
    return task.result()


def waiting_for(demand: Demand) -> str:
    """What is wanted, what is registered and what of it is free: "8 GPUs wanted, 5 registered, 1 free"."""
    rooms, free = registered(), ray.available_resources()
    kind, each = ("GPU", demand.gpus) if demand.gpus else ("CPU", demand.cpus)
    have = sum(room.gpus if demand.gpus else room.cpus for room in rooms if demand.nodes in ("", room.group))
    return (
        f"waiting for {demand}: {demand.count * each:g} {kind}s wanted, {have:g} registered, "
        f"{free.get(kind, 0.0):g} free on {len(rooms)} nodes"
    )
