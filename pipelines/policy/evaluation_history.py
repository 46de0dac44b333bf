"""What a held-out evaluation means in view of those before it: the best version so far, and what fell meanwhile."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

from pipelines.policy.metrics import EvaluationRow, mean_of_numbers
from pipelines.policy.watch import with_falls


def merit(row: EvaluationRow, by: str) -> float:
    """What the versions are compared by: larger is better. NaN if it was not measured."""
    if by == "reward":
        return row.reward_mean
    if by == "relations":
        return mean_of_numbers([row.relation_accuracy_short, row.relation_accuracy_long])
    return row.measures[by]["mean"] if by in row.measures else math.nan


def best_evaluation(
    rows: Sequence[EvaluationRow], by: str, among: Collection[int] | None = None
) -> EvaluationRow | None:
    """The evaluation of the best trained version, the earliest of several equal ones; None if there is none.

    The base, version 0, does not count. `among`: consider these versions only.
    """
    trained = [row for row in rows if row.iteration and (among is None or row.iteration in among)]
    return max((row for row in trained if math.isfinite(merit(row, by))), key=lambda row: merit(row, by), default=None)


def with_history(row: EvaluationRow, earlier: Sequence[EvaluationRow], by: str) -> EvaluationRow:
    """The evaluation with what depends on the earlier ones: `best_iteration` and the falls of its measures."""
    before = [other for other in earlier if other.iteration < row.iteration]
    best = best_evaluation([*before, row], by)
    row = with_falls(row, before[0] if before else None)
    return replace(row, best_iteration=best.iteration if best else 0)
