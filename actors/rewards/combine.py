"""How several rewards become one: a weighted sum, z-scores within a group, and gates. Pure functions, without Ray.

Axis: B images of a call, which for the training reward are one group. r_i is the score of an image by reward i, w_i
that reward's weight. An image that a reward with a weight or a gate could not score (NaN) has no total (NaN) either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from actors.types import Scores

CombineRule = Literal["sum", "z_scores"]


def weighted_sum(parts: Mapping[str, Scores], weights: Mapping[str, float]) -> Scores:
    """R = sum_i w_i r_i over the rewards with a weight, and the sigma of this sum of independent Gaussians.

    Raises ValueError if no reward has a weight.
    """
    names = [name for name in parts if weights[name]]
    if not names:
        raise ValueError(f"a weighted sum needs a reward with a weight, got {dict(weights)}")
    mu = sum(weights[name] * parts[name].mu for name in names)
    variance = sum((weights[name] * parts[name].sigma) ** 2 for name in names)
    return Scores(np.asarray(mu, np.float32), np.sqrt(np.asarray(variance, np.float32)))


def group_z_scores(scores: Scores) -> Scores:
    """Z = (r - mean) / std, with mean and std (of the population) of the finite scores of the group, in float64.

    All finite scores become 0 if they are equal: such a reward says nothing about the group. Sigma is divided by std.
    """
    mu = scores.mu.astype(np.float64)
    finite = mu[np.isfinite(mu)]
    if not len(finite) or finite.max() == finite.min():
        return Scores(np.where(np.isfinite(mu), 0.0, np.nan).astype(np.float32), np.zeros_like(scores.sigma))
    mean, std = finite.mean(), finite.std()
    z = np.where(np.isfinite(mu), (mu - mean) / std, np.nan)
    return Scores(z.astype(np.float32), (scores.sigma / std).astype(np.float32))


def gated(total: Scores, parts: Mapping[str, Scores], at_least: Mapping[str, float]) -> Scores:
    """R for an image with r_i >= at_least_i for every gate i; the lowest finite R of the group for any other image.

    An image that fails is thus never better than one that passes. If every image fails, all totals are equal, and the
    group is skipped. An image that a gate's reward could not score has no total.
    """
    mu = total.mu.copy()
    finite = mu[np.isfinite(mu)]
    for name, bound in at_least.items():
        score = parts[name].mu
        mu[np.isnan(score)] = np.nan
        if len(finite):
            mu[(score < bound) & np.isfinite(mu)] = finite.min()
    return Scores(mu, total.sigma)


def combine_group(
    parts: Mapping[str, Scores], weights: Mapping[str, float], at_least: Mapping[str, float], rule: CombineRule
) -> Scores:
    """The training reward of one group: its rewards added by `rule`, then the gates."""
    shown = parts if rule == "sum" else {name: group_z_scores(scores) for name, scores in parts.items()}
    return gated(weighted_sum(shown, weights), parts, at_least)
