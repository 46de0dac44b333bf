"""The rows of metrics.jsonl and evaluations.jsonl. docs/policy.md explains every field to users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from actors.json_lines import read_log


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
    """The learner had nothing to do, not even to sample: the next three, and the driver's own work."""
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
    """Denoising and decoding, summed over calls. On a GPU two calls of a worker overlap."""
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
    learner_sampling_seconds: float = 0.0
    """The ranks sampled, with `policy.placement=colocated`. A mean over ranks."""
    driver_starts: int = 0
    """Drivers that the run has had, including this one. RunLog sets it."""
    device_faults: int = 0
    """Devices that failed, and learners whose ranks lost each other. This and the next four: since the driver began."""
    out_of_memory: int = 0
    """Times that a device was out of memory."""
    nodes_avoided: int = 0
    """Nodes on which several devices failed, so that no replacement is placed there."""
    calls_abandoned: int = 0
    """Calls that did not return in time; see `policy.call_margin_s`."""
    checkpoints_missed: int = 0
    """Checkpoints that could not be written, or not in time."""
    rewards: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Reward -> mean, std within a group, correlation_total and correlation_<other reward> within a group."""


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
    unrequested_short: float = math.nan
    """Fraction of images with an object that the prompt does not name."""
    unrequested_long: float = math.nan
    best_iteration: int = 0
    """The best version up to this one, by `policy.evaluation.best_by`. 0: only the base was evaluated."""
    measures: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """What the trained reward does not see, e.g. sharpness -> mean, spread and fall. See pipelines/policy/watch.py."""


R = TypeVar("R", bound=IterationRow | EvaluationRow)


def read_iteration(row: dict[str, Any]) -> IterationRow:
    """Converts a parsed line of metrics.jsonl. Raises TypeError if a field is missing or is no number."""
    return _typed(IterationRow, row)


def read_evaluations(path: Path) -> tuple[EvaluationRow, ...]:
    """Reads evaluations.jsonl; empty if the file is absent. Unreadable rows are skipped with a warning."""
    return tuple(read_log(path, partial(_typed, EvaluationRow)))


def read_rows(path: Path, record: type[IterationRow | EvaluationRow] | None = None) -> list[dict[str, Any]]:
    """Reads the rows of either file as they stand, with None for NaN; none if it is absent.

    Skips what is no row of an iteration. With `record`, also skips rows that lack a field of it.
    """
    return read_log(path, _row_of_iteration if record is None else partial(_row_of, record))


def _row_of(record: type[IterationRow | EvaluationRow], row: dict[str, Any]) -> dict[str, Any]:
    return {key: _with_null(value) for key, value in asdict(_typed(record, row)).items()}


def _with_null(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _row_of_iteration(row: dict[str, Any]) -> dict[str, Any]:
    if type(row["iteration"]) is not int:
        raise TypeError(f"iteration must be an integer, got {row['iteration']!r:.40}")
    return row


def _typed(record: type[R], row: dict[str, Any]) -> R:
    """The record of a parsed line. Null is NaN, which JSON does not have; so is a number that older rows lack.

    Raises TypeError if a field is missing or is no number.
    """
    values: dict[str, Any] = {}
    for entry in fields(record):
        if entry.type == "dict[str, dict[str, float]]":
            values[entry.name] = _nested(entry.name, row.get(entry.name, {}))
            continue
        is_integer = entry.type == "int"
        missing = None if entry.default is MISSING else entry.default
        value = row.get(entry.name, missing)
        if value is None and not is_integer:
            value = math.nan
        if type(value) not in ((int,) if is_integer else (int, float)):
            raise TypeError(f"{entry.name} must be {'an integer' if is_integer else 'a number'}, got {value!r:.40}")
        values[entry.name] = value
    return record(**values)


def _nested(name: str, value: Any) -> dict[str, dict[str, float]]:
    """A parsed mapping of mappings of numbers, in which null is NaN. Raises TypeError for another value."""
    try:
        numbers = {
            key: {inner: math.nan if number is None else float(number) for inner, number in entries.items()}
            for key, entries in value.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"{name} must be a mapping of mappings of numbers, got {value!r:.40}") from None
    return numbers


def mean_of_numbers(values: Sequence[float] | np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if no value is finite."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
