"""Intervals and paired differences of cells, and the warning for prompts that a policy was trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from conf import load
from pipelines.benchmark.comparison import difference, estimate
from pipelines.benchmark.dpg import Dpg
from pipelines.benchmark.items import BenchmarkItem
from pipelines.benchmark.overlap import overlaps, plain
from pipelines.benchmark.scores import Cell, Counts, Stratum
from pipelines.benchmark.work import Work, image_seed
from pipelines.evaluation.tables import bootstrap

RNG = np.random.default_rng(0)
RIGHT = RNG.integers(0, 5, size=40)
"""Right answers of 4 about each of 40 prompts."""


def cell_of(right: np.ndarray, asked: int = 4, scale: str = "share") -> Cell:
    prompts = {f"p{i:02d}": Counts(float(count), asked) for i, count in enumerate(right)}
    return Cell("cell", (Stratum("all", prompts),), scale=scale)  # type: ignore[arg-type]


def test_an_interval_agrees_with_the_evaluation_s_bootstrap_over_prompts() -> None:
    found = estimate(cell_of(RIGHT))
    other = bootstrap(RIGHT.astype(float), np.full(40, 4), seed=1)
    assert found is not None and found.value == pytest.approx(other.value)
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.02)


def test_a_constant_gain_has_no_width_because_prompts_are_paired() -> None:
    change = difference(cell_of(RIGHT, 8, "percent"), cell_of(RIGHT + 2, 8, "percent"))
    assert change is not None
    assert (change.value, change.low, change.high) == pytest.approx((25.0, 25.0, 25.0))


def test_groups_are_averaged_before_cells_and_empty_strata_do_not_count() -> None:
    first = Stratum("a", {"p0": Counts(1, 1), "p1": Counts(1, 1)}, "one")
    second = Stratum("b", {"p0": Counts(0, 1), "p1": Counts(0, 1)}, "one")
    third = Stratum("c", {"p0": Counts(1, 1), "p1": Counts(1, 1)}, "two")
    cell = Cell("mean", (first, second, third, Stratum("d", {"p0": Counts(missing=1)}, "three")))
    found = estimate(cell)
    assert found is not None and (found.value, found.low, found.high) == (0.75, 0.75, 0.75)
    assert estimate(Cell("none", (Stratum("d", {"p0": Counts(missing=1)}),))) is None
    assert difference(cell, Cell("none", ())) is None


def test_prompts_of_a_benchmark_among_the_training_prompts_are_counted(tmp_path: Path) -> None:
    texts = ("a photo of a dog right of a teddy bear", "a photo of a cat")
    work = Work(Dpg(), Path(), tuple(BenchmarkItem(str(i), text, (), 1) for i, text in enumerate(texts)))
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"text": "A photo of a dog, right of a teddy bear."}) + "\n")
    assert overlaps(load("scenes", [f"policy.prompts={file}"]), [work]) == {"dpg": 1}
    assert overlaps(load("scenes"), [work]) == {}
    assert plain("A  dog, right!") == "a dog right"


def test_seeds_depend_on_the_item_and_not_on_its_place() -> None:
    settings = load("scenes")
    seeds = {image_seed(settings, name, item, j) for name in ("dpg", "tiif") for item in ("a", "b") for j in range(4)}
    assert len(seeds) == 16 and image_seed(settings, "dpg", "a", 0) == image_seed(load("scenes"), "dpg", "a", 0)
    assert image_seed(load("scenes", ["benchmark.seed=1"]), "dpg", "a", 0) not in seeds
