"""The numbers of a run as gauges that Prometheus can scrape."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from ray.util.metrics import Gauge

REPEAT_PERIOD_S = 5.0
"""Gauges are set again at this period: Ray exports every 10 s and drops a gauge that was not set for 20 s."""

EXPORT_SECONDS = 12.0
"""Time that a process must live after it has set a gauge, so that Ray exports it."""


class RunGauges:
    """Gauges that Ray exports to Prometheus as ray_spatialt2i_<name>, with the run directory as their label.

    They keep their values until `close`, however long an iteration takes, so that alerts can see a run without
    progress.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run = str(run_dir).encode("ascii", "backslashreplace").decode()  # Ray's metrics take ASCII only
        self._gauges: dict[str, Gauge] = {}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._repeat, name="gauges", daemon=True).start()

    def set(self, name: str, value: float, description: str, labels: Mapping[str, str] | None = None) -> None:
        """Sets a gauge. A value that is not finite removes it, because Ray's exporter refuses NaN.

        `labels`: further labels of this value. The gauge has the same ones whenever it is set.
        """
        key = (name, tuple((labels or {}).items()))
        with self._lock:
            if name not in self._gauges:
                self._gauges[name] = Gauge(
                    f"spatialt2i_{name}", description=description, tag_keys=("run", *(labels or ()))
                )
            self._values[key] = value
            self._export(key)

    def progress(self) -> None:
        """Records that the run made progress now."""
        self.set("run_progress_time_seconds", time.time(), "when the newest version was published")

    def close(self) -> None:
        """Ends all gauges. The process may continue, but no alert must fire for this run any more."""
        self._closed.set()

    def _export(self, key: tuple[str, tuple[tuple[str, str], ...]]) -> None:
        name, labels = key
        if math.isfinite(self._values[key]):
            self._gauges[name].set(self._values[key], {"run": self._run, **dict(labels)})

    def _repeat(self) -> None:
        while not self._closed.wait(REPEAT_PERIOD_S):
            with self._lock:
                for key in self._values:
                    self._export(key)
