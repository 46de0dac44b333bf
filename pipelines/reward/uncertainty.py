"""What sigma says about errors: accuracy by sigma, and how well sigma ranks the errors beside the margin.

Axes: N pairs. The uncertainty of a pair is s = sqrt(sigma_w^2 + sigma_l^2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from pipelines.common.intervals import Accuracy, wilson

GROUPS = 5
USEFUL = 0.6
"""AUROC from which a ranking of errors is of use. Chance is 0.5."""
MIN_WRONG = 10
"""Pairs in the wrong order that a statement about sigma needs."""


@dataclass(frozen=True)
class SigmaGroup:
    """Pairs of similar uncertainty."""

    low: float  # smallest s
    high: float  # largest s
    accuracy: Accuracy


@dataclass(frozen=True)
class SigmaReport:
    """Sigma against errors on the held-out pairs."""

    groups: tuple[SigmaGroup, ...]  # quantiles of s, from the surest
    auroc_sigma: float | None  # P(a wrong pair has a larger s than a right one); None without a wrong and a right pair
    auroc_margin: float | None  # the same of -|mu_w - mu_l|

    @property
    def wrong(self) -> int:
        """Pairs in the wrong order."""
        return sum(group.accuracy.pairs - group.accuracy.right for group in self.groups)

    @property
    def meaning(self) -> str:
        """What sigma is good for, in one sentence."""
        sigma, margin, pairs = self.auroc_sigma, self.auroc_margin, sum(group.accuracy.pairs for group in self.groups)
        if sigma is None or margin is None or self.wrong < MIN_WRONG:
            return f"sigma cannot be judged: only {self.wrong} of {pairs} pairs are in the wrong order"
        ranks = f"sigma ranks the wrong pairs with AUROC {sigma:.2f} (chance: 0.50), |mu difference| with {margin:.2f}"
        if sigma < USEFUL:
            return f"{ranks}: sigma does not point at errors here, use the difference of mu"
        if sigma <= margin:
            return f"{ranks}: sigma is higher where the model is wrong, but a small difference of mu says it better"
        return f"{ranks}: of two equal differences of mu, trust the one with the smaller sigma"


def sigma_report(right: np.ndarray, margin: np.ndarray, sigma_w: np.ndarray, sigma_l: np.ndarray) -> SigmaReport:
    """Sigma against errors. right: bool [N]; margin: mu_w - mu_l [N]; sigma_w, sigma_l: [N].

    Fewer pairs than groups make fewer groups.
    """
    s = np.hypot(sigma_w, sigma_l)
    parts = np.array_split(np.argsort(s, kind="stable"), GROUPS)
    groups: list[SigmaGroup] = []
    for part in parts:
        if accuracy := wilson(right[part]):
            groups.append(SigmaGroup(float(s[part].min()), float(s[part].max()), accuracy))
    return SigmaReport(tuple(groups), auroc(s, ~right), auroc(-np.abs(margin), ~right))


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """P(score of a positive > score of a negative), ties count half: Mann and Whitney's U over the number of pairs.

    score [N], positive bool [N]. None if there is no positive or no negative.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    ranks = np.asarray(rankdata(score))[positive].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))
