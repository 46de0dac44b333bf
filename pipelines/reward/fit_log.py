"""Rank 0's report of a fit: TensorBoard, metrics.jsonl, unreadable.jsonl, and a line for the terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray.actor import ActorHandle
from torch.utils.tensorboard import SummaryWriter

from actors.dtypes import DTYPES
from actors.files import write_file
from actors.json_lines import append_row, read_log
from actors.spatialscore.flops import measured_peak
from actors.spatialscore.processor import ScoreProcessor
from pipelines.common.paths import RunPaths
from pipelines.common.progress_line import PERIOD_S, clock
from pipelines.reward.job import WorkerJob
from pipelines.reward.sampler import RankInfo
from pipelines.reward.train_metrics import TrainMetrics
from pipelines.reward.unreadable import describe


class FitLog:
    """Reports the metrics of all workers. A resumed fit drops the rows of the steps that it repeats."""

    def __init__(
        self, lines: ActorHandle[Any], job: WorkerJob, rank: RankInfo, device: torch.device, done: int
    ) -> None:
        """`lines`: the actor that takes lines for the terminal. `done`: optimizer steps before a resumed fit."""
        self._lines, self._workers, self._steps = lines, rank.ranks, job.sampler.steps
        paths = RunPaths(Path(job.run_dir))
        self._metrics_file, self._unreadable_file = paths.reward_metrics, paths.reward_unreadable
        self._board = SummaryWriter(str(paths.reward_tensorboard), purge_step=done + 1)
        self._peak = job.settings.peak_tflops * 1e12 or measured_peak(device, DTYPES[job.config.dtype])
        self._start = self._last = self._said = time.monotonic()
        self._first, self._batch = done, job.settings.batch_size
        before = _truncate_after(self._metrics_file, done)
        self._seconds = float(before[-1].get("seconds", 0.0)) if before else 0.0  # of the fit before it was resumed
        self._unreadable = len(_truncate_after(self._unreadable_file, done))
        self._excluded = 0.0
        self.latest: dict[str, float] = {}

    def add(self, done: int, metrics: TrainMetrics, step: Mapping[str, float]) -> None:
        """Reports the metrics of all workers since the last call. `done`: optimizer steps so far.

        `step`: values of the last optimizer step by name.
        """
        now = time.monotonic()
        seconds, self._last = now - self._last - self._excluded, now
        self._seconds += seconds + self._excluded
        speed = {
            "pairs_seen": done * self._batch,
            "seconds": self._seconds,
            "pairs_per_second": metrics.pairs / seconds,
            "mfu": metrics.flops / (seconds * self._peak * self._workers),
        }
        self._excluded = 0.0
        self._unreadable += len(metrics.unreadable)
        self.latest = {**metrics.means(), **step, **speed, "unreadable": self._unreadable}
        for name, value in self.latest.items():
            self._board.add_scalar(f"reward/{name}", value, done)
        self._board.flush()
        append_row(self._metrics_file, {"step": done, **self.latest})
        if metrics.unreadable:
            self._lines.put.remote(f"reward: {describe(metrics.unreadable, metrics.rows)}")
        for row in metrics.unreadable:
            append_row(self._unreadable_file, {"step": done, **vars(row)})
        self._say(self._line(done))

    def say_sizes(self, processor: ScoreProcessor) -> None:
        """Says what an image costs."""
        pixels, tokens = processor.bounds.pixels, processor.image_tokens
        self._say(f"reward: every image is resized to about {pixels} pixels, {tokens} image tokens if it is square")

    def exclude(self, seconds: float) -> None:
        """Leaves seconds that were not spent on training out of the next report's speed."""
        self._excluded += seconds

    def step(self, done: int) -> None:
        """Says how far the fit is, if nothing was said for a while: `reward.log_every` steps may take minutes."""
        if time.monotonic() - self._said >= PERIOD_S:
            self._say(f"reward step {done}/{self._steps}  {self._left(done)}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self._lines.put.remote(line)

    def _left(self, done: int) -> str:
        seconds = (self._steps - done) * (time.monotonic() - self._start) / max(done - self._first, 1)
        return f"{clock(seconds)} left"

    def _line(self, done: int) -> str:
        loss, accuracy, rate = (self.latest.get(name, math.nan) for name in ("loss", "accuracy", "pairs_per_second"))
        text = (
            f"reward step {done}/{self._steps}  loss {loss:.3f}  accuracy {accuracy:.3f}  "
            f"{rate:.0f} pairs/s  {self._left(done)}"
        )
        if "held_out_accuracy" in self.latest:
            text += f"  held-out {self.latest['held_out_accuracy']:.3f} of {self.latest['held_out_pairs']:.0f} pairs"
        return f"{text}  {self._unreadable} unreadable pairs" if self._unreadable else text


def _truncate_after(path: Path, done: int) -> list[dict[str, Any]]:
    """Drops the rows of steps after `done`, which are about to be repeated. Returns the rows left."""
    if not path.exists():
        return []
    kept = [row for row in read_log(path, _with_step) if row["step"] <= done]
    write_file(str(path), "".join(json.dumps(row) + "\n" for row in kept).encode())
    return kept


def _with_step(row: dict[str, Any]) -> dict[str, Any]:
    if type(row["step"]) is not int:
        raise TypeError(f"step must be an integer, got {row['step']!r:.40}")
    return row
