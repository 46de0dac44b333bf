"""Intervals of cells and paired differences, against closed forms and an independent bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.benchmark.comparison import difference, estimate
from pipelines.benchmark.scores import Cell, Counts, Scale, Stratum
from pipelines.evaluation.tables import bootstrap


def cell_of(rights: list[int], count: int = 4, scale: Scale = "share", name: str = "a") -> Cell:
    prompts = {str(number): Counts(right, count) for number, right in enumerate(rights)}
    return Cell(name, (Stratum(name, prompts),), scale=scale)


@pytest.fixture(scope="module")
def rights() -> list[int]:
    return np.random.default_rng(0).integers(5, size=300).tolist()


def test_an_interval_is_that_of_the_evaluation(rights: list[int]) -> None:
    found = estimate(cell_of(rights))
    expected = bootstrap(np.array(rights, dtype=float), np.full(len(rights), 4), seed=1)
    assert found and found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_a_percentage_is_a_hundred_times_a_share(rights: list[int]) -> None:
    share, percent = estimate(cell_of(rights)), estimate(cell_of(rights, scale="percent"))
    assert share and percent
    assert (percent.value, percent.low, percent.high) == pytest.approx(
        (100 * share.value, 100 * share.low, 100 * share.high)
    )


def test_a_difference_is_paired_by_prompt(rights: list[int]) -> None:
    base, better = cell_of(rights, count=8), cell_of([right + 2 for right in rights], count=8)
    same, constant = difference(base, base), difference(base, better)
    assert same and (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert constant and (constant.value, constant.low, constant.high) == pytest.approx((0.25, 0.25, 0.25))


def test_strata_are_averaged_in_every_resample() -> None:
    few = Stratum("few", {str(number): Counts(1, 1) for number in range(5)})
    many = Stratum("many", {f"m{number}": Counts(0, 1) for number in range(500)})
    found = estimate(Cell("both", (few, many)))
    assert found and (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_an_empty_cell_has_no_interval_and_no_difference(rights: list[int]) -> None:
    empty = Cell("empty", (Stratum("empty", {"0": Counts(missing=4)}),))
    assert estimate(empty) is None and difference(empty, cell_of(rights)) is None
