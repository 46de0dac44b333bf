"""An event loop whose time jumps to the next timer, and a stopwatch for what does not belong to the driver."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


class DeadlockError(RuntimeError):
    """Nothing is ready to run, and no timer is set."""


class _JumpingSelector(selectors.BaseSelector):
    """Instead of waiting, moves the loop's time on."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop, self._real = loop, selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise DeadlockError("the driver and all workers wait for each other")
        if timeout > 0:
            self._loop.virtual_now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop of which no timer takes time. Work for threads is done at once."""

    def __init__(self) -> None:
        self.virtual_now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self.virtual_now

    def run_in_executor(self, executor: Any, func: Callable[..., Result], *args: Any) -> asyncio.Future[Result]:  # type: ignore[override]
        """Calls `func` in this thread: a thread would run while virtual time jumps on."""
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Stopwatch:
    """CPU seconds of the blocks that it measures, which may contain each other."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._running = False

    @contextmanager
    def running(self) -> Generator[None]:
        """Measures its block."""
        if self._running:
            yield
            return
        self._running, started = True, time.thread_time()
        try:
            yield
        finally:
            self._running = False
            self.seconds += time.thread_time() - started
