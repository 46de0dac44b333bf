"""Counts of the exact checker, taken in a Ray task beside the images.

This module imports little, because the task starts in a new process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from actors.types import Prompt
from pipelines.scenes.checker import check


@dataclass(frozen=True)
class CheckerCounts:
    """What the exact checker found in some images."""

    relations: int = 0
    """Relations of the prompts."""
    right: int = 0
    """Relations that hold."""
    reversed: int = 0
    """Relations whose opposite holds."""
    objects: int = 0
    """Objects of the prompts."""
    present: int = 0
    """Objects that are visible exactly once."""

    def __add__(self, other: CheckerCounts) -> CheckerCounts:
        return CheckerCounts(
            relations=self.relations + other.relations,
            right=self.right + other.right,
            reversed=self.reversed + other.reversed,
            objects=self.objects + other.objects,
            present=self.present + other.present,
        )


def count_outcomes(images: np.ndarray, prompts: Sequence[Prompt]) -> CheckerCounts:
    """Checks images, uint8 [B, H, W, 3], against the relations of one prompt each."""
    total = CheckerCounts()
    for image, prompt in zip(images, prompts, strict=True):
        verdict = check(image, prompt.relations)
        total += CheckerCounts(
            relations=len(verdict.outcomes),
            right=verdict.right,
            reversed=verdict.outcomes.count("reversed"),
            objects=len(verdict.present),
            present=sum(verdict.present.values()),
        )
    return total


count_outcomes_remotely = ray.remote(num_cpus=0.1, max_retries=3)(count_outcomes)
