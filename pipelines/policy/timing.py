"""Where the time of a run goes: the driver's clock, a timer of iterations, and gauges that change over time."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


def now() -> float:
    """Seconds on the clock of the running event loop, so that what the driver measures agrees with its timers.

    Outside an event loop it is `time.monotonic`, the clock of asyncio's own event loops.
    """
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


@dataclass
class IterationTimer:
    """Seconds of the current iteration, and of all iterations. Those of the learner are means over its ranks.

    Time between `stop` and the next `start` (evaluation, checkpoints) is not training time.
    """

    ranks: int = 1
    training_seconds: float = 0.0
    """Sum over all iterations."""
    iteration_seconds: float = 0.0
    between_iterations_seconds: float = 0.0
    """From the end of the iteration before to the start of this one: checkpoint, evaluation, recovery."""
    learn_seconds: float = 0.0
    wait_for_images_seconds: float = 0.0
    wait_for_scores_seconds: float = 0.0
    wait_for_ranks_seconds: float = 0.0
    """Time in which finished ranks waited for the other ranks."""
    publish_seconds: float = 0.0
    _started: float = 0.0
    _stopped: float = 0.0

    def start(self) -> None:
        """Starts an iteration."""
        self.learn_seconds = self.publish_seconds = 0.0
        self.wait_for_images_seconds = self.wait_for_scores_seconds = self.wait_for_ranks_seconds = 0.0
        self._started = now()
        self.between_iterations_seconds = self._started - self._stopped if self._stopped else 0.0

    def stop(self) -> None:
        """Ends the iteration."""
        self._stopped = now()
        self.iteration_seconds = self._stopped - self._started
        self.training_seconds += self.iteration_seconds

    @contextmanager
    def learning(self, ranks: int) -> Generator[None]:
        """Counts its block as work of `ranks` ranks."""
        started = now()
        try:
            yield
        finally:
            self.learn_seconds += (now() - started) * ranks / self.ranks

    @contextmanager
    def publishing(self) -> Generator[None]:
        """Counts its block as publishing."""
        started = now()
        try:
            yield
        finally:
            self.publish_seconds += now() - started

    def waited(self, since: float, sampled_at: float, sampling: float = 0.0) -> None:
        """Counts the wait of one rank, from `since` until now, for a group whose images came at `sampled_at`.

        `sampling`: seconds of this time in which the rank itself sampled. They are no wait.

        Both are times of `now`. The wait is split into one for images and one for scores.
        """
        waited = now() - since
        for_images = max(min(sampled_at - since, waited) - sampling, 0.0)
        self.wait_for_images_seconds += for_images / self.ranks
        self.wait_for_scores_seconds += max(waited - sampling - for_images, 0.0) / self.ranks

    def ranks_waited(self, seconds: Sequence[float]) -> None:
        """Counts how long ranks waited for the others, after they had finished their groups of an optimizer step."""
        self.wait_for_ranks_seconds += sum(seconds) / self.ranks


class BusyTime:
    """Seconds in which at least one call was under way."""

    def __init__(self) -> None:
        self._calls, self._seconds, self._since = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._seconds + (now() - self._since if self._calls else 0.0)

    def begin(self) -> None:
        """A call begins."""
        if not self._calls:
            self._since = now()
        self._calls += 1

    def end(self) -> None:
        """A call ends."""
        self._calls -= 1
        if not self._calls:
            self._seconds += now() - self._since


@dataclass(frozen=True)
class GaugeWindow:
    """How long a gauge had each value, between two readings."""

    seconds_at: Mapping[int, float]
    """Value -> seconds."""

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return sum(self.seconds_at.values())

    @property
    def integral(self) -> float:
        """Sum of value x seconds."""
        return sum(value * seconds for value, seconds in self.seconds_at.items())

    @property
    def mean(self) -> float:
        """Mean of the value over time; 0 for an empty window."""
        return self.integral / self.seconds if self.seconds else 0.0

    def idle_seconds(self, workers: int) -> float:
        """Idle seconds, summed over `workers`, if the value is a number of calls and each occupies one worker."""
        return sum(max(workers - value, 0) * seconds for value, seconds in self.seconds_at.items())


class TimeWeightedGauge:
    """A number that changes over time, such as busy actors or calls under way, and how long it had each value."""

    def __init__(self) -> None:
        self.value = 0
        self._seconds_at: defaultdict[int, float] = defaultdict(float)
        self._since = now()

    def add(self, change: int) -> None:
        """Changes the value."""
        self._count_time()
        self.value += change

    def read(self) -> GaugeWindow:
        """Returns the window since the last reading, and starts the next one."""
        self._count_time()
        window, self._seconds_at = GaugeWindow(dict(self._seconds_at)), defaultdict(float)
        return window

    def _count_time(self) -> None:
        until = now()
        self._seconds_at[self.value] += until - self._since
        self._since = until
