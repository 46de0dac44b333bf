"""The free places of the rollout actors, and who is next."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from itertools import count
from typing import Any

Priority = tuple[int, int]
"""A group's iteration and its number there: the least goes first, whenever it was asked for."""


class SlotQueue:
    """Actors' free places, handed to the most urgent of those that wait. Use inside one event loop."""

    def __init__(self) -> None:
        self._free: deque[Any] = deque()
        self._waiting: list[tuple[Priority, int, asyncio.Future[Any]]] = []  # a heap
        self._number = count()
        self._error: Exception | None = None

    def release(self, actor: Any) -> None:
        """One more free place."""
        while self._waiting:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(actor)
                return
        self._free.append(actor)

    async def acquire(self, urgency: Priority) -> Any:
        """Waits for a free place and returns its actor. Raises what `fail` was given."""
        if self._error:
            raise self._error
        if self._free:
            return self._free.popleft()
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._number), waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())  # it came too late for this one
            raise

    def fail(self, error: Exception) -> None:
        """Lets everyone who waits, or will, raise `error`."""
        self._error = error
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiting.clear()
