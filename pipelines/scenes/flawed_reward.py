"""A reward with a flaw, for the exercise of docs/reward_hacking.md: it counts patches of colour as objects.

It stands for a detector that counts everything it finds. It reads no prompt, so it likes any object, and a smear or the
half of a torn object as much as a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.scenes.checker import MIN_PIXELS, label_patches, nearest_colors
from pipelines.scenes.grammar import COLORS


def count_patches(images: np.ndarray, prompts: Sequence[str]) -> list[float]:
    """The number of connected patches of a palette colour in each image, uint8 [B, 64, 64, 3]."""
    return [float(_patches(nearest_colors(image))) for image in images]


def _patches(nearest: np.ndarray) -> int:
    """Patches of at least MIN_PIXELS, over all colours."""
    areas = (np.bincount(label_patches(nearest == color).ravel())[1:] for color in range(len(COLORS)))
    return sum(int((each >= MIN_PIXELS).sum()) for each in areas)
