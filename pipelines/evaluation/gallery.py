"""The gallery of the report: which cases it shows, and the text beside each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.common.images import data_uri
from pipelines.common.paths import RunPaths
from pipelines.evaluation.cases import MODELS, Assessment, Case, Model, Result
from pipelines.evaluation.images import image_file


@dataclass(frozen=True)
class Check:
    """One relation of a prompt and whether the image shows it."""

    text: str
    right: bool
    instead: str  # what the image shows if the relation does not hold


@dataclass(frozen=True)
class Tile:
    """One image of a comparison."""

    model: Model
    uri: str  # data URI of the image
    alt: str
    score: float
    checks: tuple[Check, ...]
    unrequested: tuple[str, ...]  # objects in the image that the prompt does not name


@dataclass(frozen=True)
class Comparison:
    """One prompt with the images of the base and of the policy from the same noise."""

    prompt: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Panel:
    """An outcome as the report shows it: how many cases have it, and some of them."""

    title: str
    note: str
    count: int
    share: float
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Outcome:
    """The cases on which training had the same effect."""

    title: str
    note: str
    max_shown: int  # in the report
    results: tuple[Result, ...]


def outcomes_of(results: Sequence[Result]) -> tuple[Outcome, ...]:
    """Sorts all cases by the effect of training. Every case has one outcome. Needs the exact checker."""

    def outcome(title: str, note: str, max_shown: int, belongs: Callable[[Result], bool]) -> Outcome:
        return Outcome(title, note, max_shown, tuple(filter(belongs, results)))

    return (
        outcome(
            "Improved",
            "More of the prompt is correct after training, or as much with fewer other objects.",
            6,
            _improved,
        ),
        outcome("Correct before and after", "The base image was already fully correct.", 3, _stayed_perfect),
        outcome("Still wrong", "As much is correct as before, but not all of it.", 3, _still_wrong),
        outcome(
            "Made worse",
            "Less of the prompt is correct after training, or an object appeared that it does not name.",
            3,
            _made_worse,
        ),
    )


def sample_evenly(results: Sequence[Result], count: int) -> list[Result]:
    """Returns at most `count` cases of distinct prompts, at even distances through the list."""
    distinct = list({result.case.prompt.text: result for result in reversed(results)}.values())[::-1]
    step = max(len(distinct) / max(count, 1), 1.0)
    return [distinct[int((i + 0.5) * step)] for i in range(min(count, len(distinct)))]


def build_gallery(results: Sequence[Result], paths: RunPaths) -> tuple[Panel, ...]:
    """Returns one panel per outcome with a few of its cases. Without the exact checker there is one panel."""
    if not any(result.base.outcomes for result in results):
        return (_panel(Outcome("Before and after", "", 9, tuple(results)), results, paths),)
    return tuple(_panel(outcome, results, paths) for outcome in outcomes_of(results) if outcome.results)


def _rank(image: Assessment) -> tuple[int, int, int]:
    """(relations that hold, objects that are present, minus objects that nobody asked for): larger is better."""
    return image.num_right, sum(image.present.values()), -len(image.unrequested)


def _improved(result: Result) -> bool:
    return _rank(result.policy) > _rank(result.base)


def _stayed_perfect(result: Result) -> bool:
    return result.base.perfect and result.policy.perfect


def _still_wrong(result: Result) -> bool:
    return _rank(result.base) == _rank(result.policy) and not result.policy.perfect


def _made_worse(result: Result) -> bool:
    return _rank(result.policy) < _rank(result.base)


def _panel(outcome: Outcome, results: Sequence[Result], paths: RunPaths) -> Panel:
    shown = tuple(_comparison(result, paths) for result in sample_evenly(outcome.results, outcome.max_shown))
    return Panel(outcome.title, outcome.note, len(outcome.results), len(outcome.results) / len(results), shown)


def _comparison(result: Result, paths: RunPaths) -> Comparison:
    images = (result.base, result.policy)
    tiles = tuple(_tile(model, result.case, image, paths) for model, image in zip(MODELS, images, strict=True))
    return Comparison(result.case.prompt.text, tiles)


def _tile(model: Model, case: Case, image: Assessment, paths: RunPaths) -> Tile:
    checks = tuple(
        Check(f"{r.subject} {r.relation} {r.object}", outcome == "right", instead)
        for r, outcome, instead in zip(case.prompt.relations, image.outcomes, image.instead, strict=False)
    )
    when = "Before training" if model == "base" else "After training"
    count = f": {image.num_right} of {len(checks)} relations correct" if checks else ""
    alt = f"{when}, “{case.prompt.text}”{count}"
    return Tile(
        model, data_uri(image_file(paths, model, case).read_bytes()), alt, image.score, checks, image.unrequested
    )
