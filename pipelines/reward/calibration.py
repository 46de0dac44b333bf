"""Does "90 % sure" mean right nine times of ten? Reliability of P(w beats l), before and after temperature scaling.

Axes: N pairs. A logit z says P(w beats l) = sigmoid(z / T); which of the two is the winner is not told to the model, so
its confidence is that in the image it prefers: max(P, 1 - P), between 1/2 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 10
LOG_TEMPERATURE_BOUNDS = (-4.0, 4.0)


@dataclass(frozen=True)
class Bin:
    """Pairs of about equal confidence."""

    pairs: int
    confidence: float  # mean
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Reliability on one half of the held-out pairs, with the temperature that the other half wants."""

    probability: str  # how P was made from the scores
    temperature: float
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

    logits [N]: above 0 where the winner is preferred. fit_half [N]: bool. Raises ValueError where a half is empty.
    """
    if fit_half.all() or not fit_half.any():
        raise ValueError(f"calibration needs pairs in both halves, got {int(fit_half.sum())} of {len(fit_half)}")
    temperature = fit_temperature(logits[fit_half])
    measured = logits[~fit_half]
    plain, scaled = reliability(measured), reliability(measured / temperature)
    return Calibration(probability, temperature, expected_error(plain), expected_error(scaled), plain, scaled)


def fit_temperature(logits: np.ndarray) -> float:
    """T that minimises mean -log sigmoid(z / T) (Guo et al. 2017), within e^-4 to e^4."""

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -logits / np.exp(log_temperature)).mean())

    found: Any = minimize_scalar(loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded")
    return float(np.exp(found.x))


def reliability(logits: np.ndarray) -> tuple[Bin, ...]:
    """Bins of equal width over confidence 1/2 to 1; empty ones are left out. A tie is wrong."""
    confidence = 1.0 / (1.0 + np.exp(-np.abs(logits)))  # [N]
    right = logits > 0
    number = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    found = [number == index for index in np.unique(number)]
    return tuple(Bin(int(at.sum()), float(confidence[at].mean()), float(right[at].mean())) for at in found)


def expected_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error: the bins' |confidence - accuracy|, weighed by their pairs."""
    pairs = sum(one.pairs for one in bins)
    return sum(one.pairs * abs(one.confidence - one.accuracy) for one in bins) / pairs
