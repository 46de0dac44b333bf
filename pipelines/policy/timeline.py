"""The timeline of an iteration: what ran in which process of the cluster, by Ray's own record of its tasks."""

from __future__ import annotations

import gzip
import json
import logging
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from actors.files import write_file
from actors.workers.profiles import iteration_folder

FLUSH_S = 5.0
"""Time after which Ray has the records of all processes, which report every second."""
CLOSE_S = 30.0


class Timelines:
    """Writes the timelines of chosen iterations, in the background."""

    def __init__(self, iterations: Sequence[int], folder: Path) -> None:
        self._iterations, self._folder = iterations, folder
        self._writers: list[threading.Thread] = []

    @contextmanager
    def iteration(self, number: int) -> Generator[None]:
        """Its block is an iteration of the driver."""
        started = time.time()
        yield
        if number in self._iterations:
            writer = threading.Thread(target=self._write, args=(number, started, time.time()), daemon=True)
            self._writers.append(writer)
            writer.start()

    def close(self) -> None:
        """Waits for what is being written, at most CLOSE_S."""
        for writer in self._writers:
            writer.join(CLOSE_S)

    def _write(self, number: int, started: float, ended: float) -> None:
        time.sleep(FLUSH_S)
        try:
            events = events_between(ray.timeline() or [], started, ended)
            events.append(_span(number, started, ended))
            name = f"{iteration_folder(str(self._folder), number)}/timeline.json.gz"
            write_file(name, gzip.compress(json.dumps(events).encode()))
        except Exception as error:  # of Ray's state service too: a timeline must not end a run
            logging.warning("the timeline of iteration %d was not written: %s", number, error)


def events_between(events: Sequence[dict[str, Any]], started: float, ended: float) -> list[dict[str, Any]]:
    """The events of Chrome's trace format that lie, in part, between two times in seconds. Names are kept."""
    return [
        event
        for event in events
        if event["ph"] == "M" or (event["ts"] / 1e6 <= ended and (event["ts"] + event.get("dur", 0.0)) / 1e6 >= started)
    ]


def _span(number: int, started: float, ended: float) -> dict[str, Any]:
    span = {"ph": "X", "name": f"iteration {number}", "cat": "driver", "pid": "driver", "tid": "iterations"}
    return span | {"ts": started * 1e6, "dur": (ended - started) * 1e6}
