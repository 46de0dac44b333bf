"""The measures of one held-out evaluation: what the trained reward does not see of its images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import ray

from actors.types import Scores
from conf.policy import IMAGE_STATISTICS
from pipelines.policy.checker_metrics import CheckerCounts
from pipelines.policy.image_statistics import diversity, image_statistics

Values = Mapping[str, np.ndarray]
"""Measure -> its values, one for each image."""


def measure_images(images: np.ndarray, others: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The statistics of each image, uint8 [B, H, W, 3], by name.

    `others`: images of the first prompts from other seeds. With them, also the diversity of each of these prompts.
    """
    columns = zip(IMAGE_STATISTICS, image_statistics(images).T, strict=True)
    found: dict[str, np.ndarray] = dict(columns)
    return found if others is None else {**found, "diversity": diversity(images[: len(others)], others)}


measure_remotely = ray.remote(num_cpus=0.1, max_retries=3)(measure_images)
"""A Ray task, so that the driver receives no images."""


def other_rewards(scores: Scores, watched: Mapping[str, Scores]) -> dict[str, np.ndarray]:
    """The scores of each reward, by name, if there are several: one alone is the trained reward itself."""
    parts = {**scores.parts, **watched}
    return {name: part.mu for name, part in parts.items()} if len(parts) > 1 else {}


def joined(parts: Sequence[Values]) -> dict[str, np.ndarray]:
    """The values of all parts, by measure."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}


def summarize_all(parts: Sequence[Values], counts: CheckerCounts) -> dict[str, dict[str, float]]:
    """See `summarize`, for each measure. With an exact checker, `fully_correct` is 1 or 0 for each image."""
    values = joined(parts)
    if counts.images:
        values["fully_correct"] = np.arange(counts.images) < counts.perfect
    return {name: summarize(each) for name, each in values.items()}


def summarize(values: np.ndarray) -> dict[str, float]:
    """Mean of the finite values, and their standard deviation as the spread; NaN if none is finite.

    `missing` is the number of the others: images that a reward could not score.
    """
    known = values[np.isfinite(values)].astype(float)
    mean, spread = (float(known.mean()), float(known.std())) if len(known) else (math.nan, math.nan)
    return {"mean": mean, "spread": spread, "missing": float(len(values) - len(known))}
