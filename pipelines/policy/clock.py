"""Where a run's wall-clock time goes. Time between `stop` and `start` (evaluation, checkpoints) does not train."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds of the present iteration, and of all iterations. The learner's are means over its ranks."""

    ranks: int = 1
    training_seconds: float = 0.0
    iteration_seconds: float = 0.0
    between_seconds: float = 0.0  # from the iteration before to this one: checkpoint, evaluation, recovery
    learn_seconds: float = 0.0
    images_wait_seconds: float = 0.0  # the learner waited for images
    scores_wait_seconds: float = 0.0  # the learner waited for scores, the images being there
    publish_seconds: float = 0.0
    _started: float = 0.0
    _stopped: float = 0.0

    def start(self) -> None:
        """Begins an iteration."""
        self.learn_seconds = self.images_wait_seconds = self.scores_wait_seconds = self.publish_seconds = 0.0
        self._started = time.perf_counter()
        self.between_seconds = self._started - self._stopped if self._stopped else 0.0

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
        self.images_wait_seconds += for_images / self.ranks
        self.scores_wait_seconds += (now - since - for_images) / self.ranks


@dataclass(frozen=True)
class Reading:
    """What a Level did since the reading before."""

    seconds: float
    area: float  # level x seconds
    zero_seconds: float  # in which the level was 0

    @property
    def mean(self) -> float:
        """The level's mean over time."""
        return self.area / self.seconds if self.seconds else 0.0


class Level:
    """A number that goes up and down, integrated over time: actors at work, calls under way."""

    def __init__(self) -> None:
        self.value, self._area, self._zero = 0, 0.0, 0.0
        self._began = self._since = time.perf_counter()

    def add(self, change: int) -> None:
        """Changes the level."""
        self._integrate()
        self.value += change

    def read(self) -> Reading:
        """What happened since the last reading. Begins the next one."""
        self._integrate()
        reading = Reading(self._since - self._began, self._area, self._zero)
        self._began, self._area, self._zero = self._since, 0.0, 0.0
        return reading

    def _integrate(self) -> None:
        now = time.perf_counter()
        self._area += self.value * (now - self._since)
        self._zero += 0.0 if self.value else now - self._since
        self._since = now
