"""The watch over a run: what is measured beside the trained reward, and whether it falls while that reward rises.

A measure is an image statistic, the diversity of a prompt's images, the exact verdict of the scenes world, or a reward
of weight 0. Their scales differ, so a fall is counted in standard deviations of the measure over the base's images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from pipelines.policy.metrics import EvaluationRow

MAX_FALL = 0.5
"""Standard deviations that a measure may fall while the reward rises; `status` and an alert report more than that."""
MAX_MISSING = 0.1
"""Share of the images that a reward may leave without a score, e.g. because a service refuses their content."""
MIN_SPREAD = 0.01
"""The standard deviation counts as at least this fraction of the mean, for a measure that is equal in all images."""

Measure = Mapping[str, float]
"""mean: over the images of an evaluation; spread: standard deviation over them (diversity: over prompts); fall;
missing: images without a value."""


def fall(first: Measure, now: Measure) -> float:
    """How far the mean fell, in standard deviations of `first`; negative if it rose, NaN if nothing is known."""
    spread = max(first["spread"], MIN_SPREAD * abs(first["mean"]))
    return (first["mean"] - now["mean"]) / spread if spread > 0 else math.nan


def with_falls(row: EvaluationRow, first: EvaluationRow | None) -> EvaluationRow:
    """The evaluation with the fall of each measure since the first one: 0 unless the reward rose meanwhile."""
    before = first.measures if first else {}
    rose = first is not None and row.reward_mean > first.reward_mean
    measures = {
        name: {**now, "fall": max(fall(before[name], now), 0.0) if rose and name in before else 0.0}
        for name, now in row.measures.items()
    }
    return replace(row, measures=measures)


def fallen(measures: Mapping[str, Measure]) -> str:
    """The measures that fell too far while the reward rose, e.g. "sharpness -0.8 std"; "" if none did."""
    falls = {name: each.get("fall", 0.0) for name, each in measures.items()}
    return ", ".join(f"{name.replace('_', ' ')} -{far:.1f} std" for name, far in falls.items() if far > MAX_FALL)


def missing(row: EvaluationRow) -> str:
    """The rewards without scores of too many images, e.g. "hpsv3 (256 of 256 images)"; "" if there are none."""
    counts = {name: int(each.get("missing", 0)) for name, each in row.measures.items()}
    gaps = {name: count for name, count in counts.items() if count > MAX_MISSING * row.images}
    return ", ".join(f"{name} ({count} of {row.images} images)" for name, count in gaps.items())
