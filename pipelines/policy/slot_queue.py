"""Free call slots of the rollout actors, given to waiting calls by priority."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from itertools import count
from typing import Any

Priority = tuple[int, int]
"""A group's iteration and its number in the iteration. The smallest is served first, whenever it was requested."""


class SlotQueue:
    """Hands free slots of actors to the waiting call of the smallest priority. Use it inside one event loop."""

    def __init__(self) -> None:
        self._free: deque[Any] = deque()
        self._waiting: list[tuple[Priority, int, asyncio.Future[Any]]] = []  # a heap
        self._number = count()
        self._error: Exception | None = None

    def release(self, actor: Any) -> None:
        """Adds a free slot of `actor`."""
        while self._waiting:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(actor)
                return
        self._free.append(actor)

    async def acquire(self, priority: Priority) -> Any:
        """Waits for a free slot and returns its actor. Raises the error that was given to `fail`."""
        if self._error:
            raise self._error
        if self._free:
            return self._free.popleft()
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._number), waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())  # the slot came after the call was cancelled
            raise

    def fail(self, error: Exception) -> None:
        """Makes every present and future call of `acquire` raise `error`."""
        self._error = error
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiting.clear()
