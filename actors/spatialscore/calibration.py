"""Calibrated probabilities from scores: how likely an image shows its prompt better than other images of the prompt.

A score alone has no probability, because mu has no zero. The difference of two scores under one prompt has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.json_files import record_or_none

CALIBRATION_FILE = "calibration.json"
"""Of a SpatialScore directory. `reward evaluate` writes it."""


@dataclass(frozen=True)
class ScoreCalibration:
    """P(image a shows the prompt better than image b) = 1 / (1 + exp(-(mu_a - mu_b) / T))."""

    temperature: float  # T, fitted on one half of the held-out pairs
    error: float  # expected calibration error on the other half


def read_calibration(folder: Path | str) -> ScoreCalibration | None:
    """The calibration of a SpatialScore directory; None if it was not measured, or if the file is damaged."""
    found = record_or_none(str(Path(folder) / CALIBRATION_FILE), ScoreCalibration)
    return found if found and found.temperature > 0 else None


def win_probabilities(mu: np.ndarray, prompts: Sequence[str], temperature: float) -> np.ndarray:
    """Mean calibrated probability that image i beats another image of its prompt  # [B] float32.

    mu [B], prompts [B]. With two images of a prompt it is the probability that one beats the other. NaN for an image
    whose prompt no other image has, and for one without a score. Images without a score do not count as others.
    """
    result = np.full(len(mu), np.nan, np.float32)
    for prompt in set(prompts):
        rows = np.array([i for i, each in enumerate(prompts) if each == prompt and np.isfinite(mu[i])], np.int64)
        if len(rows) > 1:
            differences = (mu[rows, None].astype(np.float64) - mu[None, rows]) / temperature
            beats = 0.5 * (1.0 + np.tanh(differences / 2.0))  # sigmoid without overflow
            result[rows] = (beats.sum(1) - 0.5) / (len(rows) - 1)  # without the image itself
    return result
