"""What a run measured: rows in metrics.jsonl and evaluation.jsonl, TensorBoard scalars, and gauges for Prometheus."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ray.util.metrics import Gauge
from torch.utils.tensorboard import SummaryWriter

EVALUATIONS = "evaluation.jsonl"


@dataclass(frozen=True)
class IterationRow:
    """One policy version. Seconds are wall-clock of the driver unless they say otherwise."""

    iteration: int  # the version this iteration published
    training_seconds: float  # since the run began, evaluation and checkpoints excluded
    iteration_seconds: float
    between_seconds: float  # since the iteration before: checkpoint, evaluation, recovery
    learn_seconds: float  # accumulate and step; mean over the learner's ranks, as the next three
    wait_seconds: float  # the learner had nothing to do: the next two, and the driver's own work
    images_wait_seconds: float  # of it: for images
    scores_wait_seconds: float  # of it: for scores, the images being there
    publish_seconds: float  # the driver waited for the new weights, and all others for the driver
    rollout_actors: float  # ready ones, mean
    sample_actor_seconds: float  # of denoising and decoding, summed over calls; on a GPU two calls of an actor overlap
    rollout_idle_seconds: float  # summed over rollout actors: without a call, the next weights not being there yet
    reward_replicas: float  # running ones; NaN while Serve's controller was away
    reward_queue: float  # groups whose scores were awaited, mean
    reward_idle_seconds: float  # no group was there to be scored
    score_seconds: float  # mean latency of a group's scores, queueing included
    images: int
    images_per_second: float
    images_per_second_per_gpu: float  # of the GPUs that the run holds; NaN without any
    reward_mean: float  # over the finite scores of all groups
    reward_std: float  # mean over groups of the spread within
    reward_low: float  # 10 % of the finite scores lie below
    reward_high: float  # 10 % lie above
    kept_std: float  # mean over groups of the spread among the kept
    groups_skipped: int
    scores_failed: int
    scores_tied: int
    samples_trained: int
    loss: float
    kl: float
    anchor: float  # mean (v - v_base)^2 at the steps that are never trained
    ratio_mean: float
    ratio_drift: float  # on-policy gate: max |ratio - 1| before the iteration's first update; NaN if all were stale
    clip_fraction: float
    grad_norm: float
    lr: float
    updates_applied: int
    updates_skipped: int  # gradient not finite, or none
    staleness_max: int  # policy age: versions between sampling and learning
    staleness_mean: float
    groups_reissued: int  # since the run began: calls of dead actors and groups lost with a node
    actors_replaced: int  # since the run began
    learner_restarts: int  # since the run began
    score_retries: int  # since the run began
    groups_replaced: int  # since the run began: groups whose scores did not differ


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
    reversed_short: float
    reversed_long: float
    score_mean: float  # SpatialScore
    score_mean_short: float
    score_mean_long: float


class RunLog:
    """Appends rows to files under the policy's folder and mirrors them to TensorBoard and Ray's metrics."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._run = folder, str(folder.parent)
        self.metrics, self.evaluations = folder / "metrics.jsonl", folder / EVALUATIONS
        self._board_folder, self._pictures = folder / "tensorboard", folder / "pictures"
        self._board = SummaryWriter(str(self._board_folder))
        self._gauges: dict[str, Gauge] = {}

    def rewind(self, version: int) -> None:
        """Drops rows and pictures after `version`, which the run is about to make again."""
        for path in (self.metrics, self.evaluations):
            if path.exists():
                kept = [line for line in path.read_text().splitlines(True) if json.loads(line)["iteration"] <= version]
                partial = path.with_suffix(".partial")
                partial.write_text("".join(kept))
                partial.replace(path)
        for picture in self._pictures.glob("*.png"):
            if int(picture.stem) > version:
                picture.unlink()
        self._board.close()
        self._board = SummaryWriter(str(self._board_folder), purge_step=version + 1)

    def iteration(self, row: IterationRow) -> None:
        """Records one iteration, when it was, and how much of the run's disk is left."""
        self._write(self.metrics, "policy", row)
        disk = shutil.disk_usage(self._folder)
        self._set("spatialt2i_run_published_time_seconds", time.time(), "when the newest version was published")
        self._set("spatialt2i_run_disk_free_ratio", disk.free / disk.total, "free share of the run folder's disk")

    def evaluation(self, row: EvaluationRow, pictures: Image.Image) -> None:
        """Records one held-out evaluation, with a sheet of its pictures (also pictures/<iteration>.png)."""
        self._write(self.evaluations, "evaluation", row)
        self._pictures.mkdir(exist_ok=True)
        pictures.save(self._pictures / f"{row.iteration:06d}.png")
        self._board.add_image("evaluation/pictures", np.asarray(pictures), row.iteration, dataformats="HWC")

    def has_evaluation(self, version: int) -> bool:
        """Whether the held-out evaluation of a version is recorded."""
        return any(row.iteration == version for row in read_evaluations(self.evaluations.parent))

    def _write(self, path: Path, family: str, row: IterationRow | EvaluationRow) -> None:
        values = asdict(row)
        with path.open("a") as stream:
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            stream.write(json.dumps(finite) + "\n")  # JSON has no NaN
        for key, value in values.items():
            self._board.add_scalar(f"{family}/{key}", value, row.iteration)
            self._set(f"spatialt2i_{family}_{key}", value, f"{family}: {key.replace('_', ' ')}")
        self._board.flush()

    def _set(self, name: str, value: float, description: str) -> None:
        """Sets a gauge that Ray exports as ray_<name>, labelled with the run's folder."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, description=description, tag_keys=("run",))
        self._gauges[name].set(value, {"run": self._run})

    def close(self) -> None:
        """Flushes TensorBoard."""
        self._board.close()


def read_evaluations(folder: Path) -> tuple[EvaluationRow, ...]:
    """All held-out evaluations so far of the run whose policy's folder this is."""
    path = folder / EVALUATIONS
    lines = path.read_text().splitlines() if path.exists() else []
    return tuple(_evaluation_row(json.loads(line)) for line in lines)


def _evaluation_row(row: dict[str, Any]) -> EvaluationRow:
    values: dict[str, Any] = {key: math.nan if value is None else value for key, value in row.items()}
    return EvaluationRow(**values)


def mean_of_numbers(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN where no value is finite."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
