"""Who is served and who waits. It runs on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class LineFullError(Exception):
    """As many as may wait are waiting."""


class Place:
    """One visitor's place."""

    def __init__(self, line: Line) -> None:
        self._line, self.moved = line, asyncio.Event()

    @property
    def ahead(self) -> int:
        """How many must be done before this one is served. 0: it is served."""
        return self._line.ahead(self)

    async def wait(self) -> None:
        """Returns once somebody has left."""
        await self.moved.wait()
        self.moved.clear()


class Line:
    """First come, first served."""

    def __init__(self, served: int, waiting: int) -> None:
        """`served` at once, and `waiting` behind them at most."""
        self._served, self._limit = served, served + waiting
        self._places: list[Place] = []

    def ahead(self, place: Place) -> int:
        """See Place.ahead."""
        return max(0, self._places.index(place) - self._served + 1)

    @contextmanager
    def place(self) -> Generator[Place]:
        """A place inside the block. Raises LineFullError if there is none."""
        if len(self._places) >= self._limit:
            raise LineFullError
        place = Place(self)
        self._places.append(place)
        try:
            yield place
        finally:
            self._places.remove(place)
            for other in self._places:
                other.moved.set()
