"""Lines from a Ray Train worker to the driver's terminal, whatever Ray does with worker output."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import ray
from ray.actor import ActorHandle


class Lines:
    """A queue of lines between processes."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    async def put(self, line: str | None) -> None:
        """Adds a line; None ends the queue."""
        await self._lines.put(line)

    async def get(self) -> str | None:
        """Waits for the next line."""
        return await self._lines.get()


@contextmanager
def relay_lines(log: Callable[[str], None]) -> Iterator[ActorHandle]:
    """Inside, every line put into the yielded actor is given to `log` in this process."""
    lines = cast(ActorHandle, ray.remote(Lines).options(num_cpus=0).remote())
    thread = threading.Thread(target=_relay, args=(lines, log), daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ray.get(lines.put.remote(None))
        thread.join()
        ray.kill(lines)


def _relay(lines: ActorHandle, log: Callable[[str], None]) -> None:
    while (line := cast(str | None, ray.get(lines.get.remote()))) is not None:
        log(line)
