"""Published figures name cells that exist, and a cell compares only under the published conditions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.benchmark.catalogue import find_benchmark, find_source
from pipelines.benchmark.items import Answer, BenchmarkItem, Question
from pipelines.benchmark.published import PAPER_CELLS, PUBLISHED, Conditions, compare
from pipelines.benchmark.tiif_scores import GROUPS
from pipelines.benchmark.unigen_scores import LAYOUT_2D, LAYOUT_3D

AS_PUBLISHED = Conditions("tiif", False, True, True, True, True, 0.0)


def cells_of(name: str) -> set[tuple[str, str]]:
    """Tables and names of the cells of a benchmark with one item of every kind."""
    categories = {"dpg": ["relation - spatial"], "unigenbench": [LAYOUT_2D, LAYOUT_3D]}.get(
        name.removesuffix("_long"), [""]
    )
    questions = tuple(Question(str(i), "?", "yes", each, row=i + 1) for i, each in enumerate(categories))
    groups = [kind for kinds in GROUPS.values() for kind in kinds] if name == "tiif" else [""]
    items = [
        BenchmarkItem(f"{group}{length}", "", questions, 1, group, length)
        for group in groups
        for length in ("short", "long")
    ]
    answers = [Answer(item.id, 0, ("yes",) * len(questions)) for item in items]
    return {(cell.table, cell.name) for cell in find_benchmark(name).summarize(items, answers, "official").cells}


def test_there_are_twelve_cells_and_each_but_spatialscore_is_one_of_ours() -> None:
    assert len(PAPER_CELLS) == 12
    for cell in PAPER_CELLS[1:]:
        assert (cell.table, cell.cell) in cells_of(cell.benchmark), cell.column
        assert all(0 < value < 1 for value in (cell.flux, cell.flow_grpo, cell.paper))
    for score in PUBLISHED:
        assert (score.table, score.cell) in cells_of(score.benchmark)


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "comparable in level", ""),
        ({"published_judge": False}, "comparable in the difference only", "another judge"),
        ({"images_as_published": False}, "comparable in the difference only", "another number of images"),
        ({"own_world": True}, "not comparable", "scenes world"),
        ({"published_files": False}, "not comparable", "not the published ones"),
        ({"all_prompts": False}, "not comparable", "some of the prompts"),
        ({"missing_share": 0.02}, "not comparable", "2.0% of the answers are missing"),
    ],
)
def test_every_difference_in_the_conditions_is_named(changes: dict[str, object], verdict: str, word: str) -> None:
    found = compare(replace(AS_PUBLISHED, **changes))  # type: ignore[arg-type]
    assert found.verdict == verdict and word in str(found)


def test_a_doubtful_published_figure_compares_in_the_difference_only() -> None:
    assert compare(AS_PUBLISHED, "mixed up").verdict == "comparable in the difference only"


def test_every_source_is_pinned_and_shows_its_licence() -> None:
    for name in ("dpg", "tiif", "unigenbench", "unigenbench_long", "geneval"):
        source = find_source(name)
        assert len(source.commit) == 40 and source.paths and source.licence
    assert "no licence" in find_source("tiif").warning
