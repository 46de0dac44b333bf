"""Where a run's wall-clock time goes. Time between `stop` and `start` (evaluation, checkpoints) does not count."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds of the present iteration, and of all iterations."""

    training_seconds: float = 0.0
    iteration_seconds: float = 0.0
    learn_seconds: float = 0.0
    publish_seconds: float = 0.0
    _started: float = 0.0

    def start(self) -> None:
        """Begins an iteration."""
        self.learn_seconds = self.publish_seconds = 0.0
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Ends it."""
        self.iteration_seconds = time.perf_counter() - self._started
        self.training_seconds += self.iteration_seconds

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Counts its body as the learner's work."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.learn_seconds += time.perf_counter() - started

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Counts its body as publishing."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.publish_seconds += time.perf_counter() - started
