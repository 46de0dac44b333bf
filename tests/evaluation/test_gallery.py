"""The gallery and the before-and-after strip show each outcome by rule, not by choice."""

from __future__ import annotations

import numpy as np

from pipelines.evaluation.before_after import (
    COLUMNS,
    FOOTER,
    GAP,
    HEADER,
    RIGHT,
    ROW_NAMES,
    TILE,
    WRONG,
    before_after_figure,
    choose,
)
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


def test_the_strip_shows_each_outcome_by_its_share(run: EvaluatedRun) -> None:
    chosen = choose(run.results)
    assert len(chosen) == COLUMNS
    for outcome in outcomes_of(run.results):
        shown = sum(result in outcome.results for result in chosen)
        assert abs(shown - COLUMNS * len(outcome.results) / len(run.results)) < 1, outcome.title


def test_the_strip_frames_fully_correct_images(run: EvaluatedRun) -> None:
    strip = np.asarray(before_after_figure(run.results, run.paths))
    for column, result in enumerate(choose(run.results)):
        left = ROW_NAMES + column * (TILE + GAP)
        for row, assessment in enumerate((result.base, result.policy)):
            top = HEADER + row * (TILE + FOOTER)
            assert tuple(strip[top, left]) == (RIGHT if assessment.perfect else WRONG)
            assert strip[top + 10 : top + TILE - 10, left + 10 : left + TILE - 10].std() > 1, "no image in the frame"
