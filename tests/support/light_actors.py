"""Actors for tests without a model. Their processes import this module only, in a tenth of the time of a Rollout's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from actors.types import SampleReport, Scores


class Sleeper:
    """Answers as Rollout does."""

    def ready(self) -> bool:
        """Ready at once."""
        return True

    def generate_images(
        self, texts: list[str], seeds: list[int], weights: object, plan: object
    ) -> tuple[SampleReport, list[int]]:
        """Returns the seeds."""
        time.sleep(0.2)
        return SampleReport(0, len(seeds), 0.2), seeds


class Moody(Sleeper):
    """Cannot start while a file is there."""

    def __init__(self, trouble: Path) -> None:
        if trouble.exists():
            raise OSError("the model hub is away")


class Redness:
    """Scores images by their mean red minus their mean blue, in grey levels."""

    def score(self, images: np.ndarray, prompts: tuple[str, ...]) -> Scores:
        """`images`: uint8 [B, H, W, 3], one prompt each."""
        assert len(images) == len(prompts)
        pixels = images.astype(np.float32)
        return Scores(pixels[..., 0].mean((1, 2)) - pixels[..., 2].mean((1, 2)), np.ones(len(images), np.float32))
