"""What each reward contributes to the training reward: its mean, its spread, and how it goes with the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.policy.metrics import mean_of_numbers

RewardStatistics = dict[str, dict[str, float]]
"""Reward -> statistic -> value, see `reward_statistics`."""

TOTAL = "total"
"""Name of the training reward among the correlations."""


def reward_statistics(parts: Sequence[Mapping[str, np.ndarray]], totals: Sequence[np.ndarray]) -> RewardStatistics:
    """For each reward: `mean` of its finite scores, `std`, and `correlation_NAME` with each other one and `TOTAL`.

    `parts`: for each group, the scores [G] of each reward by name. `totals`: the training rewards [G] of each group.
    `std` is the mean over groups of the std within a group. Correlations are within groups, see `group_correlation`.
    """
    names = list(parts[0]) if parts else []
    scores = {name: [group[name] for group in parts] for name in names}
    compared = {TOTAL: list(totals), **scores}
    return {
        name: {
            "mean": mean_of_numbers(np.concatenate(scores[name])),
            "std": mean_of_numbers([_std(group) for group in scores[name]]),
            **{
                f"correlation_{other}": group_correlation(scores[name], compared[other])
                for other in compared
                if other != name
            },
        }
        for name in names
    }


def group_correlation(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Pearson's r of the deviations from each group's mean, over all images that have both scores.

    The mean of a group does not matter to its advantages, so it does not count. NaN if one of them has no spread.
    """
    products = np.zeros(3)  # sums of xx, yy, xy
    for x, y in zip(first, second, strict=True):
        both = np.isfinite(x) & np.isfinite(y)
        if both.any():
            a, b = (side[both] - side[both].mean() for side in (x.astype(np.float64), y.astype(np.float64)))
            products += (a @ a, b @ b, a @ b)
    spread = math.sqrt(products[0] * products[1])
    return float(np.clip(products[2] / spread, -1, 1)) if spread > 0 else math.nan


def _std(scores: np.ndarray) -> float:
    finite = scores[np.isfinite(scores)]
    return float(finite.std()) if len(finite) else math.nan
