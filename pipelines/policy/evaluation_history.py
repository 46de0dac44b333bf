"""What a held-out evaluation means in view of those before it: the best version so far, and what images have lost."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from conf.policy import BestBy
from pipelines.policy.image_statistics import ImageStatistics, largest_loss, named_losses
from pipelines.policy.metrics import EvaluationRow, mean_of_numbers


def merit(row: EvaluationRow, by: BestBy) -> float:
    """What the versions are compared by: larger is better. NaN if it was not measured."""
    if by == "reward":
        return row.reward_mean
    return mean_of_numbers([row.relation_accuracy_short, row.relation_accuracy_long])


def best_evaluation(
    rows: Sequence[EvaluationRow], by: BestBy, among: Collection[int] | None = None
) -> EvaluationRow | None:
    """The evaluation of the best trained version, the earliest of several equal ones; None if there is none.

    The base, version 0, does not count. `among`: consider these versions only.
    """
    trained = [row for row in rows if row.iteration and (among is None or row.iteration in among)]
    return max((row for row in trained if math.isfinite(merit(row, by))), key=lambda row: merit(row, by), default=None)


def with_history(row: EvaluationRow, earlier: Sequence[EvaluationRow], by: BestBy) -> EvaluationRow:
    """The evaluation with the fields that depend on the earlier ones: `best_iteration` and `detail_loss`."""
    before = [other for other in earlier if other.iteration < row.iteration]
    best = best_evaluation([*before, row], by)
    return replace(row, best_iteration=best.iteration if best else 0, detail_loss=_detail_loss(row, before))


def lost_details(rows: Sequence[EvaluationRow]) -> str:
    """Which statistics of the images fell much although the reward rose, e.g. "edge density -41%"; "" if none did."""
    if len(rows) < 2 or not rows[-1].reward_mean > rows[0].reward_mean:
        return ""
    return ", ".join(named_losses(_statistics(rows[0]), _statistics(rows[-1])))


def _detail_loss(row: EvaluationRow, before: Sequence[EvaluationRow]) -> float:
    if not before:
        return 0.0
    loss = largest_loss(_statistics(before[0]), _statistics(row))
    return loss if math.isnan(loss) or row.reward_mean > before[0].reward_mean else 0.0


def _statistics(row: EvaluationRow) -> ImageStatistics:
    return ImageStatistics(row.edge_density, row.color_entropy, row.saturation)
