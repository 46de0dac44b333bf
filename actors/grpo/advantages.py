"""Scores of one group -> who is trained on, and with which advantage.

The top-k filter of arXiv 2602.24233 (Fig. 4): rank the group's G images, keep the k best and the k worst, and
standardise their scores. With statistics over the kept 2k (the default) an easy prompt's crowd of good images cannot
turn a good image's advantage negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STD_EPSILON = 1e-4
"""Added to the standard deviation, as Flow-GRPO does."""


@dataclass(frozen=True)
class Advantages:
    """What is left of one group. `kept` indexes the group; `values` go with it."""

    kept: tuple[int, ...]  # ascending; empty where the group is skipped
    values: tuple[float, ...]
    group_size: int  # G
    failed: int  # scores that were NaN or infinite, and dropped
    tied: int  # finite scores that equal another one of their group
    mean: float  # of the finite scores; NaN if there is none
    std: float  # of the finite scores
    skipped: str = ""  # why nothing is trained: "too few scores" | "zero spread"


def group_advantages(
    scores: np.ndarray, top_k: int, stats_over: str, clip: float = 0.0, divisor: float | None = None
) -> Advantages:
    """A_i = clip((r_i - mean) / (std + 1e-4), -clip, clip) over the kept scores of one group; `clip` 0 clips nothing.

    scores [G]. NaN and infinite scores have failed: they are dropped before ranking. Equal scores rank by their index,
    so the choice never depends on the sort. Where fewer than 2k scores are left, k shrinks to half of them; fewer than
    two scores, or kept scores that are all equal, skip the group. `top_k` 0 keeps every finite score. `stats_over`
    "selected" takes mean and std (population) over the kept, "group" over all finite scores. `divisor`, where it is
    given, stands for std + 1e-4: see `batch_divisor`.
    """
    if stats_over not in ("selected", "group"):
        raise ValueError(f"stats_over must be selected or group, got {stats_over!r}")
    finite = np.flatnonzero(np.isfinite(scores))
    values = scores[finite].astype(np.float64)
    counts = np.unique(values, return_counts=True)[1]
    tied = int(counts[counts > 1].sum())
    mean, std = (float(values.mean()), float(values.std())) if len(values) else (float("nan"), float("nan"))

    def outcome(kept: np.ndarray, advantages: np.ndarray, skipped: str = "") -> Advantages:
        return Advantages(
            tuple(kept.tolist()), tuple(advantages.tolist()), len(scores), len(scores) - len(finite), tied,
            mean, std, skipped,
        )  # fmt: skip

    nothing = np.array([], dtype=np.int64)
    if len(finite) < 2:
        return outcome(nothing, nothing, "too few scores")
    ranked = np.argsort(values, kind="stable")
    if top_k:
        k = min(top_k, len(values) // 2)
        chosen = np.sort(np.concatenate((ranked[:k], ranked[-k:])))
    else:
        chosen = np.arange(len(values))
    kept = values[chosen]
    if kept.max() == kept.min():
        return outcome(nothing, nothing, "zero spread")
    basis = kept if stats_over == "selected" else values
    advantages = (kept - basis.mean()) / (basis.std() + STD_EPSILON if divisor is None else divisor)
    return outcome(finite[chosen], np.clip(advantages, -clip, clip) if clip else advantages)


def batch_divisor(scores: Sequence[np.ndarray], groups: Sequence[Advantages], stats_over: str) -> float:
    """std + 1e-4 of all groups' scores as one population: Flow-GRPO's `global_std`, with each group's own mean.

    scores [G] and advantages of each group. Over the kept, or all finite scores, as `stats_over` says, leaving out
    groups that are skipped: a prompt whose images differ little then gets small advantages, not noise made large.
    1e-4 where all are skipped.
    """
    parts = [
        group_scores[list(group.kept)] if stats_over == "selected" else group_scores[np.isfinite(group_scores)]
        for group_scores, group in zip(scores, groups, strict=True)
        if not group.skipped
    ]
    return (float(np.concatenate(parts).astype(np.float64).std()) if parts else 0.0) + STD_EPSILON
