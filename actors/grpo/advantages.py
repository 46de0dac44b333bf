"""Scores of one group -> which images are trained on, and with which advantage.

The top-k filter of arXiv 2602.24233 (Fig. 4): rank the G images of a group, keep the k best and the k worst, and
standardize their scores (Eq. 5). With mean and std over the kept 2k (the default), an easy prompt with many good images
cannot give a good image a negative advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from conf.policy import AlgorithmSettings

STD_EPSILON = 1e-4
"""Added to the standard deviation, as in Flow-GRPO."""


def select_top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices, in ascending order, of the k best and the k worst of a group's finite scores.

    `scores` is [G]. NaN and infinite scores are never selected. Equal scores rank by their index, so the result does
    not depend on the sort algorithm. If fewer than 2k scores are finite, k shrinks to half of them. `k=0` selects all
    finite scores. Returns int64 [2k].
    """
    finite = np.flatnonzero(np.isfinite(scores))
    if k == 0:
        return finite
    ranked = finite[np.argsort(scores[finite].astype(np.float64), kind="stable")]  # worst first
    k = min(k, len(ranked) // 2)
    return np.sort(np.concatenate((ranked[:k], ranked[len(ranked) - k :])))


def standardize(scores: np.ndarray, over: np.ndarray | None = None) -> np.ndarray:
    """A_i = (r_i - mean) / (std + 1e-4): Eq. 5 of arXiv 2602.24233.

    Mean and std (of the population) are those of `over`, or of `scores` themselves. Computes in float64.
    """
    basis = (scores if over is None else over).astype(np.float64)
    return (scores.astype(np.float64) - basis.mean()) / (basis.std() + STD_EPSILON)


@dataclass(frozen=True)
class Advantages:
    """What one group contributes to the gradient. `kept` indexes the group; `values` belong to `kept`."""

    kept: tuple[int, ...]  # ascending; empty if the group is skipped
    values: tuple[float, ...]
    group_size: int  # G
    failed: int  # scores that were NaN or infinite
    tied: int  # finite scores that equal another score of the group
    mean: float  # of the finite scores; NaN if there are none
    std: float  # of the finite scores; NaN if there are none
    skipped: Literal["", "too few scores", "zero spread"] = ""  # why the group adds no gradient


def group_advantages(scores: np.ndarray, settings: AlgorithmSettings) -> Advantages:
    """Selects and standardizes the scores [G] of one group, and counts what happened to them.

    A group with fewer than two finite scores, or whose kept scores are all equal, is skipped. With
    `advantage_std_over=batch` the values are only centred (r - mean): `batch_std` divides the gradient later.
    """
    finite = scores[np.isfinite(scores)].astype(np.float64)
    kept = select_top_k(scores, settings.top_k)
    selected = scores[kept].astype(np.float64)
    over = selected if settings.advantage_mean_over == "selected" else finite
    skipped: Literal["", "too few scores", "zero spread"] = ""
    if len(finite) < 2:
        skipped = "too few scores"
    elif selected.max() == selected.min():
        skipped = "zero spread"
    values = np.empty(0)
    if not skipped:
        centre_only = settings.advantage_std_over == "batch"
        values = selected - over.mean() if centre_only else standardize(selected, over)
    counts = np.unique(finite, return_counts=True)[1]
    return Advantages(
        kept=() if skipped else tuple(kept.tolist()),
        values=tuple(values.tolist()),
        group_size=len(scores),
        failed=len(scores) - len(finite),
        tied=int(counts[counts > 1].sum()),
        mean=float(finite.mean()) if len(finite) else float("nan"),
        std=float(finite.std()) if len(finite) else float("nan"),
        skipped=skipped,
    )
