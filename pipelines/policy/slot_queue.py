"""Free call slots of the workers, given to waiting calls by priority."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Any

Priority = tuple[int, int]
"""A group's iteration and its number in the iteration. The smallest is served first, whenever it was requested."""


class SlotQueue:
    """Hands free slots to the waiting call of the smallest priority. Use it inside one event loop.

    A call that any worker can make gets a slot of the worker with the most free ones. A worker may also be claimed as a
    whole. Such a claim waits until all of its slots are free, and until no call waits that any worker can make.
    """

    def __init__(self) -> None:
        self._size: dict[Any, int] = {}
        self._free: dict[Any, int] = {}
        """Free slots of each worker."""
        self._by_free: list[dict[Any, None]] = []
        """The workers that have this many free slots, in the order in which they came to have them."""
        self._waiting: list[tuple[Priority, int, asyncio.Future[Any]]] = []  # a heap
        self._claims: dict[Any, asyncio.Future[None]] = {}
        self._number = count()
        self._error: Exception | None = None

    def add(self, worker: Any, slots: int) -> None:
        """Adds a worker with this many free slots."""
        self._by_free += [{} for _ in range(len(self._by_free), slots + 1)]
        self._size[worker], self._free[worker] = slots, 0
        self._by_free[0][worker] = None
        for _ in range(slots):
            self.release(worker)

    def remove(self, worker: Any) -> None:
        """Removes a worker. Slots of it that are in use are not given back; a claim on it is cancelled."""
        self._size.pop(worker, None)
        if worker in self._free:
            del self._by_free[self._free.pop(worker)][worker]
        if claim := self._claims.pop(worker, None):
            claim.cancel()

    def release(self, worker: Any) -> None:
        """Gives one slot of `worker` back. Does nothing if the worker was removed."""
        if worker in self._free:
            self._change(worker, 1)
            self._serve(worker)

    def release_all(self, worker: Any) -> None:
        """Ends a claim."""
        for _ in range(self._size.get(worker, 0)):
            self.release(worker)

    async def acquire(self, priority: Priority) -> Any:
        """Waits for a free slot and returns its worker. Raises the error that was given to `fail`."""
        if self._error:
            raise self._error
        if worker := self._freest():
            self._change(worker[0], -1)
            return worker[0]
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._number), waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release(waiter.result())  # the slot came after the call was cancelled
            raise

    async def claim(self, worker: Any) -> None:
        """Waits for all slots of one worker. One claim of a worker may wait at a time.

        Raises CancelledError if the worker was removed.
        """
        if worker not in self._free:
            raise asyncio.CancelledError
        claim = self._claims[worker] = asyncio.get_running_loop().create_future()
        self._serve(worker)
        try:
            await claim
        except asyncio.CancelledError:
            if claim.done() and not claim.cancelled():
                self.release_all(worker)
            elif self._claims.get(worker) is claim:
                del self._claims[worker]
            raise

    def fail(self, error: Exception) -> None:
        """Makes every present and future call of `acquire` raise `error`."""
        self._error = error
        for _, _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiting.clear()

    def _serve(self, worker: Any) -> None:
        """Gives free slots of a worker to the calls that wait, then all of them to its claim."""
        while self._waiting and self._free[worker]:
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                self._change(worker, -1)
                waiter.set_result(worker)
        if worker in self._claims and self._free[worker] == self._size[worker]:
            self._change(worker, -self._size[worker])
            self._claims.pop(worker).set_result(None)

    def _freest(self) -> tuple[Any] | None:
        """The worker with the most free slots; None if there is no free slot."""
        for workers in reversed(self._by_free[1:]):
            for worker in workers:
                return (worker,)
        return None

    def _change(self, worker: Any, change: int) -> None:
        del self._by_free[self._free[worker]][worker]
        self._free[worker] += change
        self._by_free[self._free[worker]][worker] = None
