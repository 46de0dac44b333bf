"""The row of an iteration: how the metrics of its optimizer steps and groups are merged."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from actors.grpo.advantages import group_advantages
from actors.grpo.metrics import OptimizerStepMetrics
from actors.types import SampleReport
from conf import load
from pipelines.policy.collector import Group, ScoredGroup
from pipelines.policy.progress import Counters, iteration_row
from pipelines.policy.reward_statistics import reward_statistics
from pipelines.policy.timing import IterationTimer
from pipelines.policy.utilization import Utilization

UNUSED: Any = None


def step(loss: float, base_distance: float, rows: int, regularizer_rows: int, applied: bool) -> OptimizerStepMetrics:
    return OptimizerStepMetrics(
        loss=loss,
        kl=0.0,
        base_distance=base_distance,
        ratio_mean=1.0,
        ratio_drift=loss / 1e6,
        clip_fraction=0.0,
        grad_norm=loss,
        lr=1e-3,
        rows=rows,
        samples=rows // 2,
        regularizer_rows=regularizer_rows,
        applied=applied,
    )


def group(scores: list[float], version: int) -> ScoredGroup:
    values = np.array(scores, np.float32)
    advantages = group_advantages(values, load("scenes").policy.algorithm)
    report = SampleReport(version, len(scores), 2.0)
    return ScoredGroup(cast(Group, UNUSED), values, advantages, UNUSED, (), report, 0.0, 0.5)


def test_means_of_optimizer_steps_are_weighted_by_their_own_rows() -> None:
    timer = IterationTimer(1)
    timer.iteration_seconds = 4.0
    row = iteration_row(
        version=8,
        timer=timer,
        groups=[group([1.0, 2.0, 3.0, 6.0], 7), group([float("nan"), 5.0, 5.0, 5.0], 6)],
        steps=[step(1.0, 10.0, 30, 1, applied=True), step(2.0, 40.0, 10, 3, applied=False)],
        utilization=Utilization(0.5, 2.0, 0.0, 0.0, 0.0, 1.0, 2.0),
        counters=Counters(1, 2, 3, 4, 5),
    )
    assert row.loss == pytest.approx((30 * 1.0 + 10 * 2.0) / 40)
    assert row.base_distance == pytest.approx((1 * 10.0 + 3 * 40.0) / 4)
    assert (row.ratio_drift, row.grad_norm) == (1e-6, 2.0)  # of the first step, and of the last one
    assert (row.optimizer_steps_applied, row.optimizer_steps_skipped, row.samples_trained) == (1, 1, 20)
    assert (row.staleness_max, row.staleness_mean) == (1, 0.5)
    assert (row.images, row.images_per_second, row.images_per_second_per_gpu) == (8, 2.0, 1.0)
    assert (row.groups_skipped, row.scores_failed, row.scores_tied) == (1, 1, 3)
    assert row.reward_mean == pytest.approx((3.0 + 5.0) / 2)
    assert (row.learner_sampling_seconds, row.learner_idle_seconds) == (0.5, 3.5)
    assert row.sampling_seconds == 4.0 and row.score_latency_seconds == 0.5


def test_a_reward_is_compared_with_the_others_within_groups() -> None:
    """A shift of a whole group does not count, and neither does an image that one of them could not score."""
    first = [np.array([0.0, 1.0, 2.0]), np.array([100.0, 102.0, np.nan])]
    opposite = [np.array([5.0, 4.0, 3.0]), np.array([7.0, 5.0, 9.0])]
    same = [np.full(3, 1.0), np.full(3, 2.0)]
    parts = [{"first": a, "opposite": b, "same": c} for a, b, c in zip(first, opposite, same, strict=True)]
    found = reward_statistics(parts, first)
    assert found["first"]["correlation_total"] == pytest.approx(1.0)
    assert found["first"]["correlation_opposite"] == found["opposite"]["correlation_first"] == pytest.approx(-1.0)
    assert np.isnan(found["same"]["correlation_total"]) and found["same"]["std"] == 0
    assert found["first"]["mean"] == pytest.approx(205 / 5)
    assert found["first"]["std"] == pytest.approx((np.sqrt(2 / 3) + 1.0) / 2)
