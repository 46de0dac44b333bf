"""Intervals of cells and paired differences of two sides, by resampling prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipelines.benchmark.scores import Cell, Counts
from pipelines.evaluation.tables import RESAMPLES, Estimate


def estimate(cell: Cell, seed: int = 0) -> Estimate | None:
    """A cell with its 95 % percentile interval over prompts, drawn with replacement; None for an empty cell."""
    if cell.value is None:
        return None
    low, high = _quantiles(_resampled([cell], seed)[0])
    return Estimate(cell.value, low, high)


def difference(base: Cell, policy: Cell, seed: int = 0) -> Estimate | None:
    """The policy minus the base with its 95 % interval, paired by prompt. None if one of them is empty."""
    if base.value is None or policy.value is None:
        return None
    before, after = _resampled([base, policy], seed)
    low, high = _quantiles(after - before)
    return Estimate(policy.value - base.value, low, high)


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def _resampled(cells: Sequence[Cell], seed: int) -> list[np.ndarray]:
    """The value of each cell in each resample, float64 [R]; NaN where a resample has no answer. One draw for all."""
    prompts = sorted({prompt for cell in cells for stratum in cell.strata for prompt in stratum.prompts})
    return [_values(cell, prompts, _draws(len(prompts), seed)) for cell in cells]


@lru_cache(maxsize=4)  # a benchmark's cells have few different numbers of prompts
def _draws(prompts: int, seed: int) -> np.ndarray:
    """How often each prompt counts in each resample, float64 [R, P]. Every row sums to the number of prompts."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=RESAMPLES).astype(np.float64)


def _values(cell: Cell, prompts: Sequence[str], drawn: np.ndarray) -> np.ndarray:
    """The mean over groups of the mean over strata of the shares [R]. drawn [R, P]: how often each prompt counts."""
    groups: dict[str, list[np.ndarray]] = {}
    for stratum in cell.strata:
        counts = [stratum.prompts.get(prompt, Counts()) for prompt in prompts]
        numerators = drawn @ np.array([each.numerator for each in counts])  # [R]
        denominators = drawn @ np.array([each.denominator for each in counts])
        with np.errstate(invalid="ignore", divide="ignore"):
            groups.setdefault(stratum.group, []).append(numerators / denominators)  # 0 / 0 is NaN
    scale = 100.0 if cell.scale == "percent" else 1.0
    return scale * _nanmean([_nanmean(shares) for shares in groups.values()])


def _nanmean(values: Sequence[np.ndarray]) -> np.ndarray:
    """The mean [R] of those that are not NaN; NaN where all are."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, stacked, 0.0).sum(0) / known.sum(0)
