"""Lines and counts of Ray workers for the driver's terminal, whether or not Ray forwards the output of workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

READ_TIMEOUT_S = 5.0
"""Seconds to wait for the counts."""


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


class Counts:
    """Counts by name, added up over processes. It runs as a Ray actor."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int) -> None:
        """Adds to a count."""
        self._counts[name] = self._counts.get(name, 0) + count

    def read(self) -> dict[str, int]:
        """All counts so far."""
        return self._counts


@dataclass(frozen=True)
class WorkCounter:
    """Counts the work of all workers. Workers call `add` without waiting; the driver reads."""

    actor: Any  # a handle of Counts, whose methods Ray does not type

    @classmethod
    def start(cls) -> WorkCounter:
        """Starts the actor. It ends with the last handle."""
        return cls(ray.remote(Counts).options(num_cpus=0, max_restarts=-1).remote())

    def add(self, name: str, count: int) -> None:
        """Adds to a count, in a worker."""
        self.actor.add.remote(name, count)

    def read(self) -> dict[str, int]:
        """All counts. After a failure of the node with the counts, what was counted since."""
        try:
            return ray.get(self.actor.read.remote(), timeout=READ_TIMEOUT_S)
        except (RayError, TimeoutError):  # a progress line must not end a run
            return {}


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
