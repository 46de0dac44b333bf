"""Waiting aloud: a cluster that lacks resources must not look like a run that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import ray

Result = TypeVar("Result")
REMIND_AFTER = 30.0  # seconds


async def patiently(work: Awaitable[Result], what: str, say: Callable[[str], None]) -> Result:
    """Awaits `work`; every half minute says that `what` is waited for, and what the cluster has left."""
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait({task}, timeout=REMIND_AFTER))[0]:
        free = ", ".join(
            f"{value:g} {key}" for key, value in ray.available_resources().items() if key in ("CPU", "GPU")
        )
        say(f"waiting for {what}; the cluster has {free or 'no CPU'} free")
    return task.result()
