"""What the exact checker sees, counted where the pictures are. Imports little: its task starts in a bare process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from actors.types import Prompt
from pipelines.scenes.checker import check


@dataclass(frozen=True)
class CheckerCounts:
    """What the exact checker saw in some pictures."""

    relations: int = 0
    right: int = 0
    reversed: int = 0
    objects: int = 0
    present: int = 0

    def __add__(self, other: CheckerCounts) -> CheckerCounts:
        return CheckerCounts(
            self.relations + other.relations, self.right + other.right, self.reversed + other.reversed,
            self.objects + other.objects, self.present + other.present,
        )  # fmt: skip


def count(images: np.ndarray, prompts: Sequence[Prompt]) -> CheckerCounts:
    """Checks uint8 [B, H, W, 3] pictures against their prompts' relations."""
    total = CheckerCounts()
    for image, prompt in zip(images, prompts, strict=True):
        verdict = check(image, prompt.relations)
        total += CheckerCounts(
            len(verdict.outcomes), verdict.right, verdict.outcomes.count("reversed"),
            len(verdict.present), sum(verdict.present.values()),
        )  # fmt: skip
    return total


count_remotely = ray.remote(num_cpus=0.1, max_retries=3)(count)
