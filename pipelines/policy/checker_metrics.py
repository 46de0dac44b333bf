"""Counts of the exact checker, taken in a Ray task beside the images.

This module imports little, because the task starts in a new process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from operator import add

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
    images: int = 0
    unrequested: int = 0
    """Images with an object that the prompt does not name."""
    perfect: int = 0
    """Images with every object and every relation of the prompt, and no other object."""

    def __add__(self, other: CheckerCounts) -> CheckerCounts:
        return CheckerCounts(*map(add, astuple(self), astuple(other)))


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
            images=1,
            unrequested=bool(verdict.unrequested),
            perfect=verdict.perfect,
        )
    return total


count_outcomes_remotely = ray.remote(num_cpus=0.1, max_retries=3)(count_outcomes)
