"""Three cheap numbers of images that a reward model does not look at, and whether they fall while the reward rises.

A policy that exploits its reward often draws emptier images: fewer edges, fewer colours, paler ones. The trained reward
cannot show that, because it is what is exploited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

EDGE = 24.0
"""Difference of the brightness (0 to 255) of neighbouring pixels from which on it counts as an edge."""
COLOR_LEVELS = 8
"""Levels of each of the three colour channels in the histogram of colours."""
MAX_DETAIL_LOSS = 0.3
"""Fraction of a statistic that may be lost while the reward rises; `status` and an alert report more than that."""


@dataclass(frozen=True)
class ImageStatistics:
    """Means over some images."""

    edge_density: float
    """Fraction of pixels at an edge."""
    color_entropy: float
    """Entropy of the histogram of colours, in bits."""
    saturation: float
    """Mean saturation, 0 to 1."""


def image_statistics(images: np.ndarray) -> np.ndarray:
    """The statistics of each image, [B, 3], in the order of ImageStatistics. images: uint8 [B, H, W, 3]."""
    rows = [(_edge_density(image), _color_entropy(image), _saturation(image)) for image in images]
    return np.array(rows, dtype=float).reshape(-1, 3)


def mean_statistics(rows: np.ndarray) -> ImageStatistics:
    """The means of [B, 3] statistics; NaN without images."""
    return ImageStatistics(*(rows.mean(0).tolist() if len(rows) else [math.nan] * 3))


def largest_loss(first: ImageStatistics, now: ImageStatistics) -> float:
    """The largest fraction of a statistic that is lost since `first`; 0 if none fell, NaN if nothing is known."""
    pairs = [(getattr(first, field.name), getattr(now, field.name)) for field in fields(ImageStatistics)]
    losses = [1 - value / before for before, value in pairs if before > 0 and math.isfinite(value)]
    return max(0.0, *losses) if losses else math.nan


def named_losses(first: ImageStatistics, now: ImageStatistics) -> Sequence[str]:
    """The statistics that fell by more than MAX_DETAIL_LOSS since `first`, e.g. "edge density -41%"."""
    pairs = {field.name: (getattr(first, field.name), getattr(now, field.name)) for field in fields(ImageStatistics)}
    return [
        f"{name.replace('_', ' ')} {value / before - 1:+.0%}"
        for name, (before, value) in pairs.items()
        if before > 0 and 1 - value / before > MAX_DETAIL_LOSS
    ]


def _edge_density(image: np.ndarray) -> float:
    gray = image.astype(np.float32) @ np.array((0.299, 0.587, 0.114), np.float32)  # [H, W]
    across = np.abs(np.diff(gray, axis=1))[:-1]
    down = np.abs(np.diff(gray, axis=0))[:, :-1]
    return float((np.maximum(across, down) > EDGE).mean())


def _color_entropy(image: np.ndarray) -> float:
    levels = image.reshape(-1, 3).astype(np.int64) * COLOR_LEVELS // 256
    bins = levels @ np.array((COLOR_LEVELS**2, COLOR_LEVELS, 1))
    share = np.bincount(bins)[np.unique(bins)] / len(bins)
    return float(-(share * np.log2(share)).sum()) + 0.0  # no -0.0


def _saturation(image: np.ndarray) -> float:
    high, low = image.max(2).astype(np.float32), image.min(2).astype(np.float32)
    return float(((high - low) / np.maximum(high, 1.0)).mean())
