"""Prints lines of Ray workers on the driver's terminal, whether or not Ray forwards the output of workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.actor import ActorHandle


class Lines:
    """A queue of lines between processes. It runs as a Ray actor."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    async def put(self, line: str | None) -> None:
        """Adds a line. None ends the queue."""
        await self._lines.put(line)

    async def get(self) -> str | None:
        """Waits for the next line and returns it."""
        return await self._lines.get()


@contextmanager
def relay_lines(log: Callable[[str], None]) -> Generator[ActorHandle[Any]]:
    """Inside the block, every line put into the yielded `Lines` actor is passed to `log` in this process."""
    lines = cast("ActorHandle[Any]", ray.remote(Lines).options(num_cpus=0).remote())
    thread = threading.Thread(target=_relay, args=(lines, log), daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ray.get(lines.put.remote(None))
        thread.join()
        ray.kill(lines)


def _relay(lines: ActorHandle[Any], log: Callable[[str], None]) -> None:
    while (line := cast(str | None, ray.get(lines.get.remote()))) is not None:
        log(line)
