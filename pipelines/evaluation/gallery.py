"""Pictures for the report: which cases are shown, and what is said beside each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.images import data_uri
from pipelines.evaluation.cases import SIDES, Case, Result, Sight


@dataclass(frozen=True)
class Check:
    """One relation of a prompt as a picture shows it."""

    text: str
    right: bool
    instead: str  # what is seen where it is wrong


@dataclass(frozen=True)
class Shown:
    """One picture of an exhibit."""

    side: str
    uri: str
    alt: str
    score: float
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Exhibit:
    """One prompt with the base's and the policy's picture from the same noise."""

    prompt: str
    pictures: tuple[Shown, ...]


@dataclass(frozen=True)
class Wall:
    """Cases with the same fate: how many there are, and some of them."""

    title: str
    note: str
    count: int
    share: float
    exhibits: tuple[Exhibit, ...]


@dataclass(frozen=True)
class Fate:
    """Cases to which training did the same."""

    title: str
    note: str
    places: int  # of them that the report shows
    results: tuple[Result, ...]


def fates(results: Sequence[Result]) -> tuple[Fate, ...]:
    """All cases by what became of them; every case has one fate. Needs the exact checker's outcomes."""
    named: tuple[tuple[str, str, int, Callable[[Result], bool]], ...] = (
        ("Improved", "More of the prompt is right after training.", 6, lambda r: _merit(r.policy) > _merit(r.base)),
        ("Right before and after", "Nothing was left to improve.", 3, lambda r: r.base.perfect and r.policy.perfect),
        ("Still wrong", "As much is right as before, and not all of it.", 3, _still_wrong),
        ("Made worse", "Less of the prompt is right after training.", 3, lambda r: _merit(r.policy) < _merit(r.base)),
    )
    return tuple(
        Fate(title, note, places, tuple(result for result in results if fate(result)))
        for title, note, places, fate in named
    )


def pick(chosen: Sequence[Result], places: int) -> list[Result]:
    """At most `places` cases, one a prompt, each from the middle of an equal part: none by hand."""
    first = list({result.case.prompt.text: result for result in reversed(chosen)}.values())[::-1]
    step = max(len(first) / max(places, 1), 1.0)
    return [first[int((i + 0.5) * step)] for i in range(min(places, len(first)))]


def hang(results: Sequence[Result], folder: Path) -> tuple[Wall, ...]:
    """Sorts all cases by their fate and takes a few of each."""
    if not any(result.base.outcomes for result in results):
        return (_wall(Fate("Before and after", "", 9, tuple(results)), results, folder),)
    return tuple(_wall(fate, results, folder) for fate in fates(results) if fate.results)


def _merit(sight: Sight) -> tuple[int, int]:
    return sight.right, sum(sight.present.values())


def _still_wrong(result: Result) -> bool:
    return _merit(result.base) == _merit(result.policy) and not result.policy.perfect


def _wall(fate: Fate, results: Sequence[Result], folder: Path) -> Wall:
    exhibits = tuple(_exhibit(result, folder) for result in pick(fate.results, fate.places))
    return Wall(fate.title, fate.note, len(fate.results), len(fate.results) / len(results), exhibits)


def _exhibit(result: Result, folder: Path) -> Exhibit:
    sights = (result.base, result.policy)
    shown = tuple(_show(side, result.case, sight, folder) for side, sight in zip(SIDES, sights, strict=True))
    return Exhibit(result.case.prompt.text, shown)


def _show(side: str, case: Case, sight: Sight, folder: Path) -> Shown:
    checks = tuple(
        Check(f"{r.subject} {r.relation} {r.object}", outcome == "right", instead)
        for r, outcome, instead in zip(case.prompt.relations, sight.outcomes, sight.instead, strict=False)
    )
    who = "Before training" if side == "base" else "After training"
    told = f": {sight.right} of {len(checks)} relations right" if checks else ""
    alt = f"{who}, “{case.prompt.text}”{told}"
    return Shown(side, data_uri((folder / side / f"{case.name}.png").read_bytes()), alt, sight.score, checks)
