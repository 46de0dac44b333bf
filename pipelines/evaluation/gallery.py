"""Pictures for the report: which cases are shown, and what is said beside each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.images import data_uri
from pipelines.evaluation.cases import SIDES, Assessment, Case, Result


@dataclass(frozen=True)
class Check:
    """One relation of a prompt as a picture shows it."""

    text: str
    right: bool
    instead: str  # what is seen where it is wrong


@dataclass(frozen=True)
class Tile:
    """One picture of an exhibit."""

    side: str
    uri: str
    alt: str
    score: float
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Comparison:
    """One prompt with the base's and the policy's picture from the same noise."""

    prompt: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Panel:
    """Cases with the same fate: how many there are, and some of them."""

    title: str
    note: str
    count: int
    share: float
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Outcome:
    """Cases to which training did the same."""

    title: str
    note: str
    places: int  # of them that the report shows
    results: tuple[Result, ...]


def outcomes_of(results: Sequence[Result]) -> tuple[Outcome, ...]:
    """All cases by what became of them; every case has one fate. Needs the exact checker's outcomes."""
    named: tuple[tuple[str, str, int, Callable[[Result], bool]], ...] = (
        (
            "Improved",
            "More of the prompt is right after training.",
            6,
            lambda r: _num_satisfied(r.policy) > _num_satisfied(r.base),
        ),
        ("Right before and after", "Nothing was left to improve.", 3, lambda r: r.base.perfect and r.policy.perfect),
        ("Still wrong", "As much is right as before, and not all of it.", 3, _still_wrong),
        (
            "Made worse",
            "Less of the prompt is right after training.",
            3,
            lambda r: _num_satisfied(r.policy) < _num_satisfied(r.base),
        ),
    )
    return tuple(
        Outcome(title, note, places, tuple(result for result in results if fate(result)))
        for title, note, places, fate in named
    )


def sample_evenly(chosen: Sequence[Result], places: int) -> list[Result]:
    """At most `places` cases, one a prompt, each from the middle of an equal part: none by hand."""
    first = list({result.case.prompt.text: result for result in reversed(chosen)}.values())[::-1]
    step = max(len(first) / max(places, 1), 1.0)
    return [first[int((i + 0.5) * step)] for i in range(min(places, len(first)))]


def build_gallery(results: Sequence[Result], folder: Path) -> tuple[Panel, ...]:
    """Sorts all cases by their fate and takes a few of each."""
    if not any(result.base.outcomes for result in results):
        return (_panel(Outcome("Before and after", "", 9, tuple(results)), results, folder),)
    return tuple(_panel(fate, results, folder) for fate in outcomes_of(results) if fate.results)


def _num_satisfied(sight: Assessment) -> tuple[int, int]:
    return sight.right, sum(sight.present.values())


def _still_wrong(result: Result) -> bool:
    return _num_satisfied(result.base) == _num_satisfied(result.policy) and not result.policy.perfect


def _panel(fate: Outcome, results: Sequence[Result], folder: Path) -> Panel:
    exhibits = tuple(_comparison(result, folder) for result in sample_evenly(fate.results, fate.places))
    return Panel(fate.title, fate.note, len(fate.results), len(fate.results) / len(results), exhibits)


def _comparison(result: Result, folder: Path) -> Comparison:
    sights = (result.base, result.policy)
    shown = tuple(_tile(side, result.case, sight, folder) for side, sight in zip(SIDES, sights, strict=True))
    return Comparison(result.case.prompt.text, shown)


def _tile(side: str, case: Case, sight: Assessment, folder: Path) -> Tile:
    checks = tuple(
        Check(f"{r.subject} {r.relation} {r.object}", outcome == "right", instead)
        for r, outcome, instead in zip(case.prompt.relations, sight.outcomes, sight.instead, strict=False)
    )
    who = "Before training" if side == "base" else "After training"
    told = f": {sight.right} of {len(checks)} relations right" if checks else ""
    alt = f"{who}, “{case.prompt.text}”{told}"
    return Tile(side, data_uri((folder / side / f"{case.name}.png").read_bytes()), alt, sight.score, checks)
