"""What a run measured: rows in metrics.jsonl and evaluation.jsonl, TensorBoard scalars, and gauges for Prometheus."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from pipelines.policy.gauges import RunGauges

EVALUATIONS = "evaluation.jsonl"
DRIVERS = "drivers.jsonl"


@dataclass(frozen=True)
class IterationRow:
    """One policy version. Seconds are wall-clock of the driver unless they say otherwise."""

    iteration: int  # the version this iteration published
    training_seconds: float  # since the run began, evaluation and checkpoints excluded
    iteration_seconds: float
    between_iterations_seconds: float  # since the iteration before: checkpoint, evaluation, recovery
    learn_seconds: float  # accumulate and step; mean over the learner's ranks, as the next four
    learner_idle_seconds: float  # the learner had nothing to do: the next three, and the driver's own work
    wait_for_images_seconds: float  # of it: for images
    wait_for_scores_seconds: float  # of it: for scores, the images being there
    wait_for_ranks_seconds: float  # of it: ranks that were through with their groups, for the others
    publish_seconds: float  # the driver waited for the new weights, and all others for the driver
    rollout_actors: float  # ready ones, mean
    sampling_seconds: float  # of denoising and decoding, summed over calls; on a GPU two calls of an actor overlap
    rollout_idle_seconds: float  # summed over rollout actors: without a call, the next weights not being there yet
    reward_replicas: float  # running ones; NaN while Serve's controller was away
    reward_queue: float  # groups whose scores were awaited, mean
    reward_idle_seconds: float  # summed over replicas, at a group for each: there were fewer; NaN as `reward_replicas`
    score_latency_seconds: float  # mean latency of a group's scores, queueing included
    images: int
    images_per_second: float
    images_per_second_per_gpu: float  # of the GPUs that the run holds; NaN without any
    reward_mean: float  # over the finite scores of all groups
    reward_std: float  # mean over groups of the spread within
    reward_p10: float  # 10 % of the finite scores lie below
    reward_p90: float  # 10 % lie above
    reward_std_kept: float  # mean over groups of the spread among the kept
    groups_skipped: int
    scores_failed: int
    scores_tied: int
    samples_trained: int
    loss: float
    kl: float
    base_distance: float  # mean (v - v_base)^2 at the steps that are never trained
    ratio_mean: float
    ratio_drift: float  # on-policy gate: max |ratio - 1| before the iteration's first update; NaN if all were stale
    clip_fraction: float
    grad_norm: float
    lr: float
    optimizer_steps_applied: int
    optimizer_steps_skipped: int  # gradient not finite, or none
    staleness_max: int  # policy age: versions between sampling and learning
    staleness_mean: float
    groups_reissued: int  # since the driver started, as the next four: calls of dead actors, groups lost with a node
    actors_replaced: int
    learner_restarts: int
    score_retries: int
    groups_resampled: int  # groups whose scores did not differ
    driver_starts: int = 0  # drivers of the run so far, the row's own included; RunLog fills it in


@dataclass(frozen=True)
class EvaluationRow:
    """Held-out prompts under the moving average of one version, drawn without noise."""

    iteration: int
    training_seconds: float  # that the run had spent before this evaluation
    evaluation_seconds: float
    images: int
    relation_accuracy_short: float  # relations drawn right; prompts with one relation
    relation_accuracy_long: float  # prompts with two relations or more
    object_accuracy_short: float  # objects drawn cleanly, exactly once
    object_accuracy_long: float
    relation_reversed_short: float
    relation_reversed_long: float
    reward_mean: float  # the reward, as the run's `mix` sums it; SpatialScore by default
    reward_mean_short: float
    reward_mean_long: float


class RunLog:
    """Appends rows to files under the policy's folder and mirrors them to TensorBoard and Ray's metrics."""

    def __init__(self, folder: Path) -> None:
        """Counts the driver that makes it as one more of the run."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._gauges = folder, RunGauges(folder.parent)
        self._driver = _count_driver(folder / DRIVERS)
        self._gauges.set("policy_driver_starts", self._driver, "drivers of the run so far")  # before any row does
        self._gauges.progress()  # so that a run that never publishes a version can raise an alert
        self.metrics, self.evaluations = folder / "metrics.jsonl", folder / EVALUATIONS
        self._board_folder, self._pictures = folder / "tensorboard", folder / "pictures"
        self._board = SummaryWriter(str(self._board_folder))

    def truncate_after(self, version: int) -> None:
        """Drops rows and pictures after `version`, which the run is about to make again."""
        for path in (self.metrics, self.evaluations):
            if path.exists():
                kept = [row for row in read_rows(path) if row["iteration"] <= version]
                partial = path.with_suffix(".partial")
                partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
                partial.replace(path)
        for picture in self._pictures.glob("*.png"):
            if int(picture.stem) > version:
                picture.unlink()
        self._board.close()
        self._board = SummaryWriter(str(self._board_folder), purge_step=version + 1)

    def iteration(self, row: IterationRow) -> None:
        """Records one iteration, by which driver and when it was, and how much of the run's disk is left."""
        with self._warn_on_full_disk(row.iteration):
            self._write(self.metrics, "policy", replace(row, driver_starts=self._driver))
        disk = shutil.disk_usage(self._folder)
        self._gauges.progress()
        self._gauges.set("run_disk_free_ratio", disk.free / disk.total, "free share of the run folder's disk")

    def evaluation(self, row: EvaluationRow, pictures: Image.Image) -> None:
        """Records one held-out evaluation, with a sheet of its pictures (also pictures/<iteration>.png)."""
        with self._warn_on_full_disk(row.iteration):
            self._write(self.evaluations, "evaluation", row)
            self._pictures.mkdir(exist_ok=True)
            pictures.save(self._pictures / f"{row.iteration:06d}.png")
            self._board.add_image("evaluation/pictures", np.asarray(pictures), row.iteration, dataformats="HWC")

    def has_evaluation(self, version: int) -> bool:
        """Whether the held-out evaluation of a version is recorded."""
        return any(row.iteration == version for row in read_evaluations(self.evaluations.parent))

    @contextlib.contextmanager
    def _warn_on_full_disk(self, version: int) -> Iterator[None]:
        """Warns where a record cannot be written: a full disk must not end the run whose numbers it holds."""
        try:
            yield
        except OSError as error:
            logging.warning("what version %d measured is not recorded in %s: %s", version, self._folder, error)

    def _write(self, path: Path, family: str, row: IterationRow | EvaluationRow) -> None:
        values = asdict(row)
        with path.open("a") as stream:
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            stream.write(json.dumps(finite) + "\n")  # JSON has no NaN
        for key, value in values.items():
            self._board.add_scalar(f"{family}/{key}", value, row.iteration)
            self._gauges.set(f"{family}_{key}", value, f"{family}: {key.replace('_', ' ')}")
        self._board.flush()

    def close(self) -> None:
        """Flushes TensorBoard, and ends the gauges."""
        self._gauges.close()
        self._board.close()


def _count_driver(path: Path) -> int:
    """Notes that a driver started, in a file that no rewind touches. Returns how many have, this one included."""
    with path.open("a") as stream:
        stream.write(json.dumps({"started": time.time()}) + "\n")
    return len(path.read_text().splitlines())


def read_iteration(row: dict[str, Any]) -> IterationRow:
    """A parsed line of metrics.jsonl. Raises TypeError where a field is missing that every run measures."""
    return IterationRow(**_with_nan(row))


def read_evaluations(folder: Path) -> tuple[EvaluationRow, ...]:
    """All held-out evaluations so far of the run whose policy's folder this is."""
    return tuple(EvaluationRow(**_with_nan(row)) for row in read_rows(folder / EVALUATIONS))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none where it is absent. One that was cut off is left out: it is being written
    now, or a kill or a full disk came in between."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _with_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Any: a row's numbers, whose types the dataclasses of rows know."""
    return {key: math.nan if value is None else value for key, value in row.items()}


def mean_of_numbers(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where no value is finite."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
