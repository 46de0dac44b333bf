"""Copies the records of a stage to experiment trackers, without touching the stage.

The files of the run directory are the queue: a thread for each tracker reads the rows that are new and sends them. A
tracker that fails or is slow therefore delays nothing and loses nothing. It is tried again later, by a resumed driver
too, with the rows that it missed. What was sent is kept in <run_dir>/<stage>/trackers/<tracker>.json.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from actors.files import write_file
from actors.json_files import record_or_none
from actors.json_lines import read_log
from conf.settings import Settings
from pipelines.common.fingerprints import digest_of
from pipelines.common.paths import RunPaths
from pipelines.common.stage_paths import Stage
from pipelines.common.trackers import StartedTracker, TrackerRun, check_trackers, flat, without_secrets

PERIOD_S = 5.0
RETRY_S = 60.0
"""Time until a tracker that failed is tried again."""
CLOSE_S = 60.0
"""Time that a tracker has in the end to take what is left."""


@dataclass(frozen=True)
class TrackedLog:
    """A JSON Lines file whose rows are sent."""

    file: Path
    family: str
    """Start of the names of its values, as in TensorBoard."""
    step: str
    """Key of the step in a row."""
    image: Callable[[int], Path] | None = None
    """Step -> PNG file, if there is one for each row."""


@dataclass(frozen=True)
class Sent:
    """What a tracker has received."""

    run: str = ""
    """Id of the tracker's run."""
    first: str = ""
    """Digest of the first row. If it changes, the stage has begun anew, and so does the tracker's run."""
    steps: dict[str, int] = field(default_factory=dict[str, int])
    """Family -> last step."""


class Tracking:
    """Sends the rows of a stage to one tracker, in a thread of its own."""

    def __init__(self, name: str, run: TrackerRun, state: Path, config: Mapping[str, object]) -> None:
        """`state`: JSON file for what was sent. `config`: settings that a new run records."""
        self.name, self._new_run, self._state, self._config = name, run, state, config
        self._sent = record_or_none(str(state), Sent) or Sent()
        self._tracker: StartedTracker | None = None
        self.failures = 0
        self.unsent = 0
        self._retry = -math.inf
        self._closed = threading.Event()

    def start(self, logs: Sequence[TrackedLog]) -> None:
        """Begins to send, in the background."""
        self._thread = threading.Thread(target=self._repeat, args=(logs,), name=f"tracker {self.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sends what is left, within CLOSE_S, and ends the tracker's run. Warns if something could not be sent."""
        self._closed.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logging.warning("%s did not take the last rows within %.0f s; a resumed run sends them", self.name, CLOSE_S)
        elif self.failures:
            logging.warning("%s: %d calls failed, %d rows were not sent", self.name, self.failures, self.unsent)

    def send(self, logs: Sequence[TrackedLog]) -> None:
        """Sends all rows that are new. A failure is counted, and the first one is logged; see RETRY_S."""
        try:
            rows = self._new_rows(logs)
            self.unsent = len(rows)
            for log, row in rows:
                self._send(log, row)
                self.unsent -= 1
        except Exception as error:  # of any library
            self._retry = time.monotonic() + RETRY_S
            self.failures += 1
            if self.failures == 1:
                reason = without_secrets(f"{type(error).__name__}: {error}")
                logging.warning(
                    "tracker %s failed, and is tried again every %.0f s: %.500s", self.name, RETRY_S, reason
                )

    def _repeat(self, logs: Sequence[TrackedLog]) -> None:
        while not self._closed.wait(PERIOD_S):
            if time.monotonic() > self._retry:
                self.send(logs)
        self.send(logs)
        try:
            if self._tracker:
                self._tracker.finish()
        except Exception:  # of any library
            self.failures += 1

    def _new_rows(self, logs: Sequence[TrackedLog]) -> list[tuple[TrackedLog, dict[str, Any]]]:
        """Rows after the last ones that were sent, by step. A stage that began anew sends all of them."""
        read = [(log, read_log(log.file, _row(log.step)) if log.file.exists() else []) for log in logs]
        if not read[0][1]:
            return []
        first = digest_of(read[0][1][0])
        if first != self._sent.first:
            if self._tracker:
                self._tracker.finish()
            self._tracker, self._sent = None, Sent(first=first)
        rows = [
            (log, row) for log, found in read for row in found if row[log.step] > self._sent.steps.get(log.family, -1)
        ]
        return sorted(rows, key=lambda entry: entry[1][entry[0].step])  # stable: an iteration before its evaluation

    def _send(self, log: TrackedLog, row: dict[str, Any]) -> None:
        tracker, step = self._started(), row[log.step]
        numbers: dict[str, Any] = {key: value for key, value in flat(row).items() if _is_number(value)}
        values = {f"{log.family}/{key}": float(value) for key, value in numbers.items()}
        tracker.log(values, step)
        if log.image and (file := log.image(step)).exists():
            tracker.log_image(f"{log.family}/images", file, step)
        self._record(replace(self._sent, steps={**self._sent.steps, log.family: step}))

    def _started(self) -> StartedTracker:
        if self._tracker is None:
            Path(self._new_run.folder).mkdir(parents=True, exist_ok=True)
            tracker = StartedTracker(self.name, replace(self._new_run, id=self._sent.run))
            self._tracker = tracker
            if not self._sent.steps:
                tracker.configure(self._config)
            self._record(replace(self._sent, run=tracker.id))
        return self._tracker

    def _record(self, sent: Sent) -> None:
        self._sent = sent
        write_file(str(self._state), json.dumps(asdict(sent)).encode())


@contextmanager
def tracking(
    settings: Settings, paths: RunPaths, stage: Stage, logs: Sequence[TrackedLog], sections: Sequence[str]
) -> Generator[None]:
    """Sends the rows of `logs` to `tracking.trackers` inside the block. Without trackers it does nothing.

    `sections`: settings that a tracker shows as the run's configuration. Raises UserError if a tracker is missing.
    """
    check_trackers(settings)
    folder = paths.trackers(stage)
    config = flat({name: values for name, values in asdict(settings).items() if name in sections})
    run = TrackerRun(settings.tracking.project, f"{paths.root.name}-{stage}", str(folder))
    started: list[Tracking] = []
    try:
        for name in settings.tracking.trackers:
            started.append(Tracking(name, run, folder / f"{name.rpartition(':')[2]}.json", config))
            started[-1].start(logs)
        yield
    finally:
        for each in started:
            each.close()


def _row(step: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def convert(row: dict[str, Any]) -> dict[str, Any]:
        if type(row[step]) is not int:
            raise TypeError(f"{step} must be an integer, got {row[step]!r:.40}")
        return row

    return convert


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
