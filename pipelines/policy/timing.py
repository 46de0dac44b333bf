"""Where a run's wall-clock time goes. Time between `stop` and `start` (evaluation, checkpoints) does not train."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class IterationTimer:
    """Seconds of the present iteration, and of all iterations. The learner's are means over its ranks."""

    ranks: int = 1
    training_seconds: float = 0.0
    iteration_seconds: float = 0.0
    between_iterations_seconds: float = 0.0  # from the iteration before to this one: checkpoint, evaluation, recovery
    learn_seconds: float = 0.0
    wait_for_images_seconds: float = 0.0  # the learner waited for images
    wait_for_scores_seconds: float = 0.0  # the learner waited for scores, the images being there
    wait_for_ranks_seconds: float = 0.0  # ranks that were through waited for the others
    publish_seconds: float = 0.0
    _started: float = 0.0
    _stopped: float = 0.0

    def start(self) -> None:
        """Begins an iteration."""
        self.learn_seconds = self.publish_seconds = 0.0
        self.wait_for_images_seconds = self.wait_for_scores_seconds = self.wait_for_ranks_seconds = 0.0
        self._started = time.perf_counter()
        self.between_iterations_seconds = self._started - self._stopped if self._stopped else 0.0

    def stop(self) -> None:
        """Ends it."""
        self._stopped = time.perf_counter()
        self.iteration_seconds = self._stopped - self._started
        self.training_seconds += self.iteration_seconds

    @contextmanager
    def learning(self, ranks: int) -> Iterator[None]:
        """Counts its body as work of so many ranks."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.learn_seconds += (time.perf_counter() - started) * ranks / self.ranks

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Counts its body as publishing."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.publish_seconds += time.perf_counter() - started

    def waited(self, since: float, sampled_at: float) -> None:
        """Counts one rank's waiting from `since` until now for a group whose images were there at `sampled_at`."""
        now = time.perf_counter()
        for_images = min(max(sampled_at - since, 0.0), now - since)
        self.wait_for_images_seconds += for_images / self.ranks
        self.wait_for_scores_seconds += (now - since - for_images) / self.ranks

    def ranks_waited(self, through: Sequence[float]) -> None:
        """Counts what ranks that were through with an update's groups at these times have waited until now."""
        now = time.perf_counter()
        self.wait_for_ranks_seconds += sum(now - since for since in through) / self.ranks


@dataclass(frozen=True)
class GaugeWindow:
    """What a Level did since the reading before."""

    at: Mapping[int, float]  # level -> seconds

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self.at.values())

    @property
    def integral(self) -> float:
        """Level x seconds."""
        return sum(level * seconds for level, seconds in self.at.items())

    @property
    def mean(self) -> float:
        """The level's mean over time."""
        return self.integral / self.seconds if self.seconds else 0.0

    def idle_seconds(self, count: int) -> float:
        """What the level lacked to `count`, x seconds: with a call for each, the idle time of so many servers."""
        return sum(max(count - level, 0) * seconds for level, seconds in self.at.items())


class TimeWeightedGauge:
    """A number that goes up and down, and how long it stood where: actors at work, calls under way."""

    def __init__(self) -> None:
        self.value = 0
        self._at: defaultdict[int, float] = defaultdict(float)
        self._since = time.perf_counter()

    def add(self, change: int) -> None:
        """Changes the level."""
        self._note()
        self.value += change

    def read(self) -> GaugeWindow:
        """What happened since the last reading. Begins the next one."""
        self._note()
        reading, self._at = GaugeWindow(dict(self._at)), defaultdict(float)
        return reading

    def _note(self) -> None:
        now = time.perf_counter()
        self._at[self.value] += now - self._since
        self._since = now
