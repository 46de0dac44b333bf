"""The rows of metrics.jsonl and evaluations.jsonl. docs/policy.md explains every field to users."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class IterationRow:
    """One iteration. Seconds are wall-clock seconds of the driver unless the field says otherwise.

    Counters of failures count from the start of the driver. The tests of the dashboard look up every field in it.
    """

    iteration: int
    """The policy version that this iteration published."""
    training_seconds: float
    """Sum of `iteration_seconds` since the run began."""
    iteration_seconds: float
    """Duration of this iteration, without evaluation and checkpoint."""
    between_iterations_seconds: float
    """Since the end of the iteration before: checkpoint, evaluation, recovery."""

    learn_seconds: float
    """The learner computed gradients and stepped. This and the next four are means over its ranks."""
    learner_idle_seconds: float
    """The learner had nothing to do: the next three, and the driver's own work."""
    wait_for_images_seconds: float
    """Part of the idle time: no images yet."""
    wait_for_scores_seconds: float
    """Part of the idle time: images without scores yet."""
    wait_for_ranks_seconds: float
    """Part of the idle time: finished ranks waited for the other ranks."""
    publish_seconds: float
    """The driver waited for the new weights, and all other roles for the driver."""

    rollout_actors: float
    """Mean number of ready rollout actors."""
    sampling_seconds: float
    """Denoising and decoding, summed over calls. On a GPU the two calls of an actor overlap."""
    rollout_idle_seconds: float
    """Seconds without a call, summed over rollout actors: they waited for the next weights."""
    reward_replicas: float
    """Running replicas of all rewards. NaN if Serve's controller did not answer."""
    reward_queue: float
    """Mean number of groups that waited for their scores."""
    reward_idle_seconds: float
    """Seconds without a group, summed over replicas. NaN if `reward_replicas` is."""
    score_latency_seconds: float
    """Mean time from a group's images to its scores, including the queue."""
    images: int
    """Sampled images."""
    images_per_second: float
    images_per_second_per_gpu: float
    """Per GPU that the run holds. NaN without GPUs."""

    reward_mean: float
    """Mean of the finite scores of all groups."""
    reward_std: float
    """Mean over groups of the std of a group's scores."""
    reward_p10: float
    """10th percentile of the finite scores."""
    reward_p90: float
    """90th percentile of the finite scores."""
    reward_std_kept: float
    """Mean over groups of the std of the selected scores."""
    groups_skipped: int
    """Groups without gradient: equal scores, or fewer than two finite ones."""
    scores_failed: int
    """Scores that were not finite. Their images are not selected."""
    scores_tied: int
    """Scores that equal another score of their group."""

    samples_trained: int
    """Selected images that were learned."""
    loss: float
    kl: float
    base_distance: float
    """Mean (v - v_base)^2 at the denoise steps that are never trained."""
    ratio_mean: float
    ratio_drift: float
    """Max |ratio - 1| before the first optimizer step of the iteration. NaN if it had no on-policy rows."""
    clip_fraction: float
    """Fraction of rows (sample, denoise step) whose loss the clip decides."""
    grad_norm: float
    """Of the last optimizer step, before clipping."""
    lr: float
    optimizer_steps_applied: int
    optimizer_steps_skipped: int
    """Optimizer steps without a finite gradient."""
    staleness_max: int
    """Policy versions between the sampling and the learning of a group."""
    staleness_mean: float

    groups_reissued: int
    """Calls that were repeated because an actor or a node died: groups, and parts of held-out evaluations."""
    actors_replaced: int
    """Rollout actors that died or could not start, and were replaced."""
    learner_restarts: int
    score_retries: int
    """Scoring calls that were repeated."""
    groups_resampled: int
    """Groups that were replaced by another prompt: equal scores, or fewer than two finite ones."""
    driver_starts: int = 0
    """Drivers that the run has had, including this one. RunLog sets it."""


@dataclass(frozen=True)
class EvaluationRow:
    """One evaluation on held-out prompts: images of the averaged weights of one version, sampled without noise.

    The fields of relations and objects are the exact checker's. They are NaN outside the scenes world.
    """

    iteration: int
    """The policy version that was evaluated."""
    training_seconds: float
    """Training time of the run before this evaluation."""
    evaluation_seconds: float
    images: int
    relation_accuracy_short: float
    """Fraction of relations that the images show; prompts with one relation."""
    relation_accuracy_long: float
    """The same for prompts with two or more relations."""
    object_accuracy_short: float
    """Fraction of objects that are visible exactly once."""
    object_accuracy_long: float
    relation_reversed_short: float
    """Fraction of relations that the images show the other way round."""
    relation_reversed_long: float
    reward_mean: float
    """Mean reward: the weighted sum of section `rewards`, by default SpatialScore."""
    reward_mean_short: float
    reward_mean_long: float


def read_iteration(row: dict[str, Any]) -> IterationRow:
    """Converts a parsed line of metrics.jsonl. Raises TypeError if a field is missing."""
    return IterationRow(**_with_nan(row))


def read_evaluations(path: Path) -> tuple[EvaluationRow, ...]:
    """Reads evaluations.jsonl; empty if the file is absent."""
    return tuple(EvaluationRow(**_with_nan(row)) for row in read_rows(path))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of a JSON Lines file; none if it is absent.

    Skips an incomplete row: it is being written now, or its writing was interrupted by a kill or a full disk.
    """
    rows: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _with_nan(row: dict[str, Any]) -> dict[str, Any]:
    """Replaces null by NaN, which JSON does not have."""
    return {key: math.nan if value is None else value for key, value in row.items()}


def mean_of_numbers(values: Sequence[float] | np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if no value is finite."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
