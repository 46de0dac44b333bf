"""Calibration of P(w beats l): reliability before and after temperature scaling.

Axes: N pairs. A logit z means P(w beats l) = sigmoid(z / T). The model does not know which image is the winner, so its
confidence is the probability of the image that it prefers: max(P, 1 - P), between 1/2 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 10
LOG_TEMPERATURE_BOUNDS = (-4.0, 4.0)


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence."""

    pairs: int
    confidence: float  # mean
    accuracy: float  # share of pairs in the right order


@dataclass(frozen=True)
class Calibration:
    """Reliability on one half of the held-out pairs, with the temperature fitted on the other half."""

    probability: str  # what P is computed from
    temperature: float  # T
    error: float  # expected calibration error with T = 1
    error_scaled: float  # with the fitted temperature
    bins: tuple[Bin, ...]  # with T = 1
    bins_scaled: tuple[Bin, ...]


def mean_logits(mu_w: np.ndarray, mu_l: np.ndarray) -> np.ndarray:
    """Bradley-Terry on the means: z = mu_w - mu_l  # [N]."""
    return mu_w - mu_l


def gaussian_logits(mu_w: np.ndarray, sigma_w: np.ndarray, mu_l: np.ndarray, sigma_l: np.ndarray) -> np.ndarray:
    """E[sigmoid(s_w - s_l)] by MacKay's approximation: z = d / sqrt(1 + pi v / 8), v = sigma_w^2 + sigma_l^2  # [N]."""
    return (mu_w - mu_l) / np.sqrt(1.0 + np.pi * (sigma_w**2 + sigma_l**2) / 8.0)


def calibrate(probability: str, logits: np.ndarray, fit_half: np.ndarray) -> Calibration:
    """Fits T on the pairs of `fit_half` and measures on the others.

    logits [N]: above 0 if the model prefers the winner. fit_half [N]: bool. Raises ValueError if a half is empty.
    """
    if fit_half.all() or not fit_half.any():
        raise ValueError(f"calibration needs pairs in both halves, got {int(fit_half.sum())} of {len(fit_half)}")
    temperature = fit_temperature(logits[fit_half])
    measured = logits[~fit_half]
    plain, scaled = reliability(measured), reliability(measured / temperature)
    return Calibration(probability, temperature, expected_error(plain), expected_error(scaled), plain, scaled)


def fit_temperature(logits: np.ndarray) -> float:
    """T in [e^-4, e^4] that minimizes mean -log sigmoid(z / T) (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -logits / np.exp(log_temperature)).mean())

    result: Any = minimize_scalar(loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded")
    return float(np.exp(result.x))


def reliability(logits: np.ndarray) -> tuple[Bin, ...]:
    """Bins of equal width over the confidence from 1/2 to 1, without empty ones. A tie counts as wrong."""
    confidence = 1.0 / (1.0 + np.exp(-np.abs(logits)))  # [N]
    right = logits > 0
    bin_of_pair = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    members = [bin_of_pair == number for number in np.unique(bin_of_pair)]
    return tuple(Bin(int(m.sum()), float(confidence[m].mean()), float(right[m].mean())) for m in members)


def merged(bins: Sequence[Bin], min_pairs: int) -> tuple[Bin, ...]:
    """Neighbouring bins put together, from the surest down, until each holds at least `min_pairs` pairs.

    A bin of a handful of pairs jumps between 0 % and 100 %. What is left at the unsure end joins the bin above it.
    """
    groups: list[list[Bin]] = []
    for each in sorted(bins, key=lambda one: -one.confidence):
        if groups and sum(one.pairs for one in groups[-1]) < min_pairs:
            groups[-1].append(each)
        else:
            groups.append([each])
    if len(groups) > 1 and sum(one.pairs for one in groups[-1]) < min_pairs:
        rest = groups.pop()
        groups[-1] += rest
    return tuple(_as_one(group) for group in reversed(groups))


def _as_one(bins: Sequence[Bin]) -> Bin:
    pairs = sum(each.pairs for each in bins)
    return Bin(
        pairs,
        sum(each.pairs * each.confidence for each in bins) / pairs,
        sum(each.pairs * each.accuracy for each in bins) / pairs,
    )


def expected_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error: mean over pairs of |confidence - accuracy| of their bin."""
    pairs = sum(b.pairs for b in bins)
    return sum(b.pairs * abs(b.confidence - b.accuracy) for b in bins) / pairs
