"""The table "What else changed": means of image statistics and margins of other rewards, policy against base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actors.json_files import record_or_none
from conf.policy import IMAGE_STATISTICS
from conf.settings import Settings
from pipelines.benchmark.comparison import difference, estimate
from pipelines.benchmark.scores import Cell, Counts, Stratum, pool
from pipelines.benchmark.work import Work
from pipelines.common.paths import RunPaths
from pipelines.evaluation.tables import Estimate

STATISTICS = "image statistics"
"""Name of the measure that needs no model."""
NAMES = tuple(name.replace("_", " ") for name in IMAGE_STATISTICS)
"""The statistics, in the order of `image_statistics`."""


@dataclass(frozen=True)
class Measured:
    """The content of a file of values: one entry for each pair of images."""

    items: list[str]  # BenchmarkItem.id
    values: list[list[float]]  # statistics of base and of policy (8), or a margin, policy - base (1)


@dataclass(frozen=True)
class MeasuredRow:
    """One measure on the images of one benchmark."""

    benchmark: str
    name: str
    pairs: int  # pairs of images with a value
    base: Estimate | None  # None for a reward, which gives differences
    policy: Estimate | None
    difference: Estimate  # policy - base, with its interval over prompts
    preferred: Estimate | None  # share of the pairs whose image of the policy scores higher; ties count half


def measures_of(settings: Settings) -> tuple[str, ...]:
    """The measures that the settings name."""
    return (STATISTICS, *settings.benchmark.other_rewards)


def read_measured(settings: Settings, work: Sequence[Work], paths: RunPaths) -> list[MeasuredRow]:
    """The rows of all measures of the settings that were taken."""
    rows: list[MeasuredRow] = []
    for each in work:
        for name in measures_of(settings):
            found = record_or_none(str(paths.benchmark_measured(each.name, name)), Measured)
            if found and found.items:
                rows += _rows(each.name, name, found, settings.benchmark.seed)
    return rows


def _rows(benchmark: str, name: str, found: Measured, seed: int) -> list[MeasuredRow]:
    if name != STATISTICS:
        row = _reward_row(benchmark, name, found, seed)
        return [row] if row else []
    rows: list[MeasuredRow] = []
    for number, statistic in enumerate(NAMES):
        base, policy = (
            _cell(found.items, [values[number + offset] for values in found.values]) for offset in (0, len(NAMES))
        )
        change = difference(base, policy, seed)
        if change:
            sides = estimate(base, seed), estimate(policy, seed)
            rows.append(MeasuredRow(benchmark, statistic, len(found.items), *sides, change, None))
    return rows


def _reward_row(benchmark: str, name: str, found: Measured, seed: int) -> MeasuredRow | None:
    """None if the reward has scored no pair."""
    known = [(item, value) for item, (value,) in zip(found.items, found.values, strict=True) if math.isfinite(value)]
    items = [item for item, _ in known]
    change = estimate(_cell(items, [value for _, value in known]), seed)
    preferred = estimate(_cell(items, [float(value > 0) + 0.5 * (value == 0) for _, value in known]), seed)
    return MeasuredRow(benchmark, name, len(known), None, None, change, preferred) if change else None


def _cell(items: Sequence[str], values: Sequence[float]) -> Cell:
    """A mean over images, by prompt."""
    shares: dict[str, dict[str, Counts]] = {"": {}}
    for item, value in zip(items, values, strict=True):
        pool(shares, "", item, Counts(value, 1))
    return Cell("", (Stratum("", shares[""]),))
