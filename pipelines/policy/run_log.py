"""Records what a run measured: JSON Lines files, TensorBoard, and gauges for Prometheus."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from actors.files import write_file
from actors.json_lines import append_row, read_log
from conf.settings import Settings
from pipelines.common.images import encode_png
from pipelines.common.lease import check_lease
from pipelines.common.paths import RunPaths, run_paths
from pipelines.common.tracking import TrackedLog, tracking
from pipelines.policy.gauges import RunGauges
from pipelines.policy.metrics import EvaluationRow, IterationRow, read_evaluations, read_rows
from pipelines.policy.reward_statistics import RewardStatistics


class RunLog:
    """Appends rows to the files of a run directory, and copies them to TensorBoard and Ray's metrics."""

    def __init__(self, paths: RunPaths) -> None:
        """Counts the calling driver as one more of the run."""
        paths.policy.mkdir(parents=True, exist_ok=True)
        self._paths, self._gauges = paths, RunGauges(paths.root)
        self._driver = _count_driver(paths.drivers)
        self._gauges.set("policy_driver_starts", self._driver, "drivers of the run so far")  # before the first row
        self._gauges.progress()  # so that an alert can fire for a run that never publishes a version
        self._board = SummaryWriter(str(paths.tensorboard))

    def truncate_after(self, version: int) -> None:
        """Removes rows and images after `version`, because the run is about to make them again."""
        for path in (self._paths.metrics, self._paths.evaluations):
            if path.exists():
                rows = read_rows(path)
                kept = [row for row in rows if row["iteration"] <= version]
                write_file(str(path), "".join(json.dumps(row) + "\n" for row in kept).encode())
                dropped = [row["iteration"] for row in rows if row["iteration"] > version]
                for number in dropped if path == self._paths.evaluations else ():
                    self._paths.evaluation_image(number).unlink(missing_ok=True)
        self._board.close()
        self._board = SummaryWriter(str(self._paths.tensorboard), purge_step=version + 1)

    def iteration(self, row: IterationRow) -> None:
        """Records one iteration, the number of its driver, and the free share of the run's disk.

        Raises LeaseLostError if another driver has taken over the run.
        """
        check_lease(self._paths.lease)
        with self._warn_on_full_disk(row.iteration):
            self._write(self._paths.metrics, "policy", replace(row, driver_starts=self._driver))
        disk = shutil.disk_usage(self._paths.policy)
        self._gauges.progress()
        self._gauges.set("run_disk_free_ratio", disk.free / disk.total, "free share of the run folder's disk")

    def evaluation(self, row: EvaluationRow, images: Image.Image) -> None:
        """Records one held-out evaluation and its grid of images (also as images/<iteration>.png).

        Raises LeaseLostError if another driver has taken over the run.
        """
        check_lease(self._paths.lease)
        with self._warn_on_full_disk(row.iteration):
            self._write(self._paths.evaluations, "evaluation", row)
            write_file(str(self._paths.evaluation_image(row.iteration)), encode_png(np.asarray(images)))
            self._board.add_image("evaluation/images", np.asarray(images), row.iteration, dataformats="HWC")

    def has_evaluation(self, version: int) -> bool:
        """Whether the held-out evaluation of a version is recorded."""
        return any(row.iteration == version for row in read_evaluations(self._paths.evaluations))

    @contextlib.contextmanager
    def _warn_on_full_disk(self, version: int) -> Generator[None]:
        """Logs a warning if a record cannot be written: a full disk must not end the run."""
        try:
            yield
        except OSError as error:
            logging.warning("the metrics of version %d were not written to %s: %s", version, self._paths.policy, error)

    def _write(self, path: Path, family: str, row: IterationRow | EvaluationRow) -> None:
        values = asdict(row)
        append_row(path, values)
        for key, value in values.items():
            if isinstance(value, dict):  # name -> statistic -> number
                self._write_named(family, key, cast("RewardStatistics", value), row.iteration)
                continue
            self._board.add_scalar(f"{family}/{key}", value, row.iteration)
            self._gauges.set(f"{family}_{key}", value, f"{family}: {key.replace('_', ' ')}")
        self._board.flush()

    def _write_named(self, family: str, key: str, named: RewardStatistics, version: int) -> None:
        """Statistics by name: <family>/<key>/<name>/<statistic>, and gauges with a label for it, e.g. `reward`."""
        for name, statistics in named.items():
            for statistic, value in statistics.items():
                self._board.add_scalar(f"{family}/{key}/{name}/{statistic}", value, version)
                kind, _, other = statistic.partition("_")
                gauge, about = f"{family}_{key}_{kind}", f"{family}: {kind} of each of the {key}"
                labels = {key.removesuffix("s"): name, **({"other": other} if other else {})}
                self._gauges.set(gauge, value, about, labels)

    def finish(self) -> None:
        """Records that the run ended well, so that no alert is raised when its gauges end."""
        self._gauges.set("run_finished_time_seconds", time.time(), "when the run ended well")

    def close(self) -> None:
        """Flushes TensorBoard and ends the gauges."""
        self._gauges.close()
        self._board.close()


def track_policy(settings: Settings) -> AbstractContextManager[None]:
    """Sends the rows and images of stage 3 to the trackers of `tracking.trackers` inside the block."""
    paths = run_paths(settings)
    logs = (
        TrackedLog(paths.metrics, "policy", "iteration"),
        TrackedLog(paths.evaluations, "evaluation", "iteration", paths.evaluation_image),
    )
    return tracking(settings, paths, "policy", logs, ("policy", "flux", "rewards"))


def _count_driver(path: Path) -> int:
    """Appends a row for this driver to a file that is never truncated. Returns the number of its rows."""
    append_row(path, {"started": time.time()})
    return len(read_log(path, lambda row: row["started"]))
