"""Confidence intervals of shares, and a paired test of two models on the same pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

Z95 = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs in the right order, with Wilson's 95 % score interval."""

    pairs: int
    right: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two models on the same pairs."""

    name: str
    other: str
    only_first: int  # pairs that only the first model orders correctly
    only_other: int  # pairs that only the other model orders correctly
    difference: float  # accuracy of the first minus accuracy of the other
    p: float  # two-sided, McNemar's exact test


def wilson(right: np.ndarray) -> Accuracy | None:
    """Returns the share of True in `right` with Wilson's 95 % score interval; None if N is 0.

    right: bool [N]. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    count, good = len(right), int(right.sum())
    if not count:
        return None
    share, square = good / count, Z95**2 / count
    centre = (share + square / 2) / (1 + square)
    spread = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    low, high = max(0.0, centre - spread), min(1.0, centre + spread)  # rounding may leave [0, 1]
    return Accuracy(count, good, share, low, high)


def mcnemar(name: str, right: np.ndarray, other: str, other_right: np.ndarray) -> PairedTest:
    """Returns McNemar's exact test of two models on the same pairs.

    Null hypothesis: a pair that only one model orders correctly is equally likely to be either model's.
    right, other_right: bool [N], the same pairs in the same order. Raises ValueError if the lengths differ or are 0.
    """
    if len(right) != len(other_right) or not len(right):
        raise ValueError(f"both models must judge the same pairs, got {len(right)} and {len(other_right)}")
    only_first, only_other = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    discordant = only_first + only_other
    p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedTest(name, other, only_first, only_other, (only_first - only_other) / len(right), p)
