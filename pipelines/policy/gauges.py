"""A run's numbers as gauges that Prometheus can scrape."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

from ray.util.metrics import Gauge

REPEAT_AFTER = 5.0
"""Seconds after which gauges are set again: Ray exports every 10, forgets what it exported, and drops it 20 later."""


class RunGauges:
    """Numbers that Ray exports to Prometheus as ray_spatialt2i_<name>, labelled with the run's folder.

    They last until `close`, however long an iteration takes: an alert must see them stand still.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run = str(run_dir)
        self._gauges: dict[str, Gauge] = {}
        self._values: dict[str, float] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._repeat, name="gauges", daemon=True).start()

    def set(self, name: str, value: float, description: str) -> None:
        """Sets a gauge. One without a finite value ceases: Ray's exporter takes no NaN."""
        with self._lock:
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"spatialt2i_{name}", description=description, tag_keys=("run",))
            self._values[name] = value
            self._tell(name)

    def progress(self) -> None:
        """Says that the run got further just now."""
        self.set("run_progress_time_seconds", time.time(), "when the newest version came, or the driver started")

    def close(self) -> None:
        """Lets all of them cease, as nothing more is awaited of the run, though the process may live on."""
        self._closed.set()

    def _tell(self, name: str) -> None:
        if math.isfinite(self._values[name]):
            self._gauges[name].set(self._values[name], {"run": self._run})

    def _repeat(self) -> None:
        while not self._closed.wait(REPEAT_AFTER):
            with self._lock:
                for name in self._values:
                    self._tell(name)
