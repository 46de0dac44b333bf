"""The gallery and the before-and-after strip show each outcome by rule, not by choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipelines.evaluation.before_after import (
    COLUMNS,
    FOOTER,
    GAP,
    HEADER,
    MORE,
    RIGHT,
    ROW_NAMES,
    TILE,
    WRONG,
    before_after_figure,
    choose,
)
from pipelines.evaluation.cases import Result
from pipelines.evaluation.gallery import build_gallery, outcomes_of
from tests.support.evaluated_run import EvaluatedRun


def test_every_case_has_one_outcome(run: EvaluatedRun) -> None:
    assert sum(len(outcome.results) for outcome in outcomes_of(run.results)) == len(run.results)
    assert sum(panel.count for panel in build_gallery(run.results, run.paths)) == len(run.results)


def test_failures_are_shown(run: EvaluatedRun) -> None:
    panels = {panel.title: panel for panel in build_gallery(run.results, run.paths)}
    exchanged = {panel.title: panel for panel in build_gallery(run.exchanged(), run.paths)}
    assert exchanged["Made worse"].count == panels["Improved"].count
    assert exchanged["Made worse"].comparisons


def test_a_panel_shows_distinct_prompts(run: EvaluatedRun) -> None:
    for panel in build_gallery(run.results, run.paths):
        prompts = [comparison.prompt for comparison in panel.comparisons]
        assert prompts
        assert len(set(prompts)) == len(prompts)


def shown_cases(results: Sequence[Result]) -> list[Result]:
    return [result for each in choose(results) for result in each.shown]


def test_the_strip_shows_each_outcome_by_its_share(run: EvaluatedRun) -> None:
    assert len(shown_cases(run.results)) == COLUMNS
    shown = {each.outcome.title: len(each.shown) for each in choose(run.results)}
    for outcome in outcomes_of(run.results):
        share = COLUMNS * len(outcome.results) / len(run.results)
        assert abs(shown.get(outcome.title, 0) - share) < 1, outcome.title
        assert all(result in outcome.results for each in choose(run.results) for result in each.shown
                   if each.outcome.title == outcome.title)  # fmt: skip


def test_the_strip_hides_no_case_that_became_worse(run: EvaluatedRun) -> None:
    """One case of many is worse: by its share it would not be shown."""
    *others, worse = outcomes_of(run.results)
    few = [*(result for outcome in others for result in outcome.results), worse.results[0]]
    many = few[:-1] * 10 + few[-1:]
    last = choose(many)[-1]
    assert (last.outcome.title, len(last.outcome.results), len(last.shown)) == ("Made worse", 1, 1)
    assert len(shown_cases(many)) == COLUMNS
    assert choose(few[:-1])[-1].outcome.title != "Made worse"


def test_the_strip_frames_fully_correct_images(run: EvaluatedRun) -> None:
    strip = np.asarray(before_after_figure(run.results, run.paths))
    for column, result in enumerate(shown_cases(run.results)):
        left = ROW_NAMES + column * (TILE + GAP)
        for row, assessment in enumerate((result.base, result.policy)):
            top = HEADER + row * (TILE + FOOTER)
            assert tuple(strip[top, left]) == (RIGHT if assessment.perfect else WRONG)
            assert strip[top + 10 : top + TILE - 10, left + 10 : left + TILE - 10].std() > 1, "no image in the frame"


def test_the_strip_names_objects_that_nobody_asked_for(run: EvaluatedRun) -> None:
    plain = np.asarray(before_after_figure(run.results, run.paths))
    marked = [replace(each, policy=replace(each.policy, unrequested=("red square",))) for each in run.results]
    strip = np.asarray(before_after_figure(marked, run.paths))
    below = slice(HEADER + 2 * TILE + FOOTER + 18, HEADER + 2 * (TILE + FOOTER))
    amber = (strip[below] == MORE).all(2)
    assert amber.any() and not (plain[below] == MORE).all(2).any()
