"""Tables of a benchmark: cells with numerator, denominator and missing answers, intervals and paired differences.

A cell is a mean of shares. A share (`Stratum`) is a ratio of totals over prompts. Most cells have one stratum; a cell
of TIIF-Bench has one for each type, GenEval's overall one for each tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Scale = Literal["share", "percent"]
"""How a benchmark prints its cells: 0.871 or 87.1."""


@dataclass(frozen=True)
class Counts:
    """Contribution of one prompt to a share."""

    numerator: float = 0.0
    denominator: float = 0.0
    missing: float = 0.0  # answers that should be in the denominator and are not

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.numerator + other.numerator, self.denominator + other.denominator, self.missing + other.missing
        )


@dataclass(frozen=True)
class Stratum:
    """A share by prompt. Its value is the total of the numerators over the total of the denominators."""

    name: str
    prompts: Mapping[str, Counts] = field(default_factory=dict[str, Counts])  # BenchmarkItem.id -> Counts
    group: str = ""  # strata of one group are averaged first, then the groups

    def total(self) -> Counts:
        """The sums over all prompts."""
        return sum(self.prompts.values(), Counts())


@dataclass(frozen=True)
class Cell:
    """One value of a table: the mean over groups of the mean of their strata's shares; empty strata do not count."""

    name: str
    strata: tuple[Stratum, ...]
    table: str = ""  # cells of one table have different names, e.g. "L1" and "L2" of DPG-Bench
    scale: Scale = "share"
    stratum_digits: int | None = None  # the official script rounds each share before it averages
    digits: int | None = None  # and the mean, as numpy rounds
    note: str = ""  # what a reader must know, e.g. "last image of each prompt only"

    @property
    def numerator(self) -> float:
        """Right answers, over all strata."""
        return sum(stratum.total().numerator for stratum in self.strata)

    @property
    def denominator(self) -> float:
        """Answers, over all strata."""
        return sum(stratum.total().denominator for stratum in self.strata)

    @property
    def missing(self) -> float:
        """Missing answers, over all strata."""
        return sum(stratum.total().missing for stratum in self.strata)

    @property
    def value(self) -> float | None:
        """The value on the benchmark's scale; None for an empty cell."""
        return self._mean([_ratio(stratum.total()) for stratum in self.strata])

    @property
    def lowest(self) -> float | None:
        """The value if every missing answer were wrong."""
        return self._mean([_ratio(stratum.total(), missing_right=0.0) for stratum in self.strata])

    @property
    def highest(self) -> float | None:
        """The value if every missing answer were right."""
        return self._mean([_ratio(stratum.total(), missing_right=1.0) for stratum in self.strata])

    @property
    def missing_share(self) -> float:
        """Missing answers as a share of all that should be there; 0 if nothing should be there."""
        expected = self.denominator + self.missing
        return self.missing / expected if expected else 0.0

    def _mean(self, shares: Sequence[float | None]) -> float | None:
        """The mean over groups of the mean over their strata. `shares`: one for each stratum, None for an empty one."""
        groups: dict[str, list[float]] = {}
        for stratum, share in zip(self.strata, shares, strict=True):
            if share is not None:
                rounded = share if self.stratum_digits is None else round(share, self.stratum_digits)
                groups.setdefault(stratum.group, []).append(rounded)
        if not groups:
            return None
        mean = sum(sum(each) / len(each) for each in groups.values()) / len(groups)
        scaled = mean * (100.0 if self.scale == "percent" else 1.0)
        return scaled if self.digits is None else float(np.round(scaled, self.digits))


def pool(shares: dict[str, dict[str, Counts]], share: str, item: str, counts: Counts) -> None:
    """Adds the counts of a prompt to a share."""
    prompts = shares.setdefault(share, {})
    prompts[item] = prompts.get(item, Counts()) + counts


def _ratio(total: Counts, missing_right: float | None = None) -> float | None:
    if missing_right is None:
        return total.numerator / total.denominator if total.denominator else None
    count = total.denominator + total.missing
    return (total.numerator + missing_right * total.missing) / count if count else None


@dataclass(frozen=True)
class Summary:
    """The scores of one benchmark, one judge and one side (base or policy)."""

    benchmark: str
    cells: tuple[Cell, ...]
    images_expected: int
    images_judged: int
    unreadable: Mapping[str, int] = field(default_factory=dict[str, int])  # Failure -> images
    lost: Mapping[str, int] = field(default_factory=dict[str, int])  # reason -> images (DPG-Bench: items) left out
    notes: tuple[str, ...] = ()

    def find(self, name: str, table: str | None = None) -> Cell | None:
        """Returns a cell by its name, in one table or in any; None if there is none."""
        return next((cell for cell in self.cells if cell.name == name and table in (None, cell.table)), None)
