"""How exactly a SpatialScore can be compared with itself: scores depend a little on how rows share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.spatialscore import SpatialScorer

_FACTOR = 4.0  # between the noise that a few rows show and the largest difference that is accepted
_SMALLEST = {"float32": 1e-5, "bfloat16": 1e-3}
"""Accepted in any case, times the size of the scores. A few rows may show no noise at all."""


@dataclass(frozen=True)
class NoiseFloor:
    """The rounding noise of a scorer on its device."""

    noise: float  # largest change of mu if a row is scored alone instead of in a batch
    tolerance: float  # differences up to this one are rounding


def noise_floor(scorer: SpatialScorer, images: Sequence[np.ndarray], prompts: Sequence[str]) -> NoiseFloor:
    """Measures the noise: image i under prompt i, all rows in one forward pass against each row alone."""
    together = scorer.score(images, prompts).mu
    alone = [scorer.score([image], [prompt]).mu[0] for image, prompt in zip(images, prompts, strict=True)]
    noise = float(np.abs(together - np.array(alone)).max())
    smallest = _SMALLEST[scorer.model.config.dtype] * max(1.0, float(np.abs(together).max()))
    return NoiseFloor(noise, max(_FACTOR * noise, smallest))


def device_of(scorer: SpatialScorer) -> str:
    """The device that holds the scorer's weights."""
    return str(next(scorer.model.head.parameters()).device)
