"""The terms of the training reward in the report: mean, spread, and how each goes with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.curves import JsonRow
from pipelines.policy.metrics import mean_of_numbers

LAST = 10
"""The newest iterations over which the table averages, at most."""


@dataclass(frozen=True)
class RewardTermRow:
    """One reward that trains. Every number is a mean over the first or the newest iterations; NaN: not known."""

    name: str
    weight: float
    first: float
    """Mean score of the first iterations."""
    last: float
    """Mean score of the newest iterations, like all others."""
    std: float
    """Within a group."""
    correlations: tuple[float, ...]
    """With the training reward, and then with each term of the table in order: Pearson's r within groups."""


def averaged(training: Sequence[JsonRow]) -> int:
    """The number of the first, and of the newest, iterations: no iteration of a run with several is in both."""
    return max(1, min(LAST, len(training) // 2))


def reward_terms(training: Sequence[JsonRow], weights: Mapping[str, float]) -> list[RewardTermRow]:
    """The terms of a run of several; [] for one alone, which is the training reward itself.

    `training`: rows of metrics.jsonl. `weights`: reward -> its weight. A reward that the newest row lacks is left out.
    """
    names = list(training[-1]["rewards"]) if training else []
    if len(names) < 2:
        return []
    count = averaged(training)
    early, late = training[:count], training[-count:]
    compared = ("total", *names)
    return [
        RewardTermRow(
            name,
            weights.get(name, 0.0),
            _mean(early, name, "mean"),
            _mean(late, name, "mean"),
            _mean(late, name, "std"),
            tuple(1.0 if other == name else _mean(late, name, f"correlation_{other}") for other in compared),
        )
        for name in names
    ]


def _mean(rows: Sequence[JsonRow], name: str, statistic: str) -> float:
    values = [row["rewards"].get(name, {}).get(statistic) for row in rows]
    return mean_of_numbers([float("nan") if value is None else float(value) for value in values])
