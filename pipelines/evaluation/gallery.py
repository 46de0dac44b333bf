"""Pictures for the report: which cases are shown, and what is said beside each."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.evaluation.cases import SIDES, Case, Result, Sight

LARGEST = 384  # pixels a side of an embedded picture; larger ones are reduced


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


def hang(results: Sequence[Result], folder: Path) -> tuple[Wall, ...]:
    """Sorts all cases by their fate and takes a few of each at even distances, none by hand."""
    if not any(result.base.outcomes for result in results):
        return (_wall("Before and after", "", results, results, 9, folder),)
    fates: tuple[tuple[str, str, int, Callable[[Result], bool]], ...] = (
        ("Improved", "More of the prompt is right after training.", 6, lambda r: _merit(r.policy) > _merit(r.base)),
        ("Right before and after", "Nothing was left to improve.", 3, lambda r: r.base.perfect and r.policy.perfect),
        ("Still wrong", "As much is right as before, and not all of it.", 3, _still_wrong),
        ("Made worse", "Less of the prompt is right after training.", 3, lambda r: _merit(r.policy) < _merit(r.base)),
    )
    walls = (
        _wall(title, note, [result for result in results if fate(result)], results, places, folder)
        for title, note, places, fate in fates
    )
    return tuple(wall for wall in walls if wall.count)


def data_uri(encoded: bytes) -> str:
    """An image file's bytes as a data URI, reduced if it is large."""
    with Image.open(io.BytesIO(encoded)) as image:
        kind = (image.format or "PNG").lower()
        if max(image.size) > LARGEST:
            image.thumbnail((LARGEST, LARGEST))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
            encoded, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _merit(sight: Sight) -> tuple[int, int]:
    return sight.right, sum(sight.present.values())


def _still_wrong(result: Result) -> bool:
    return _merit(result.base) == _merit(result.policy) and not result.policy.perfect


def _wall(
    title: str, note: str, chosen: Sequence[Result], results: Sequence[Result], places: int, folder: Path
) -> Wall:
    first = list({result.case.prompt.text: result for result in reversed(chosen)}.values())[::-1]  # one a prompt
    step = max(len(first) / places, 1.0)
    taken = [first[int((i + 0.5) * step)] for i in range(min(places, len(first)))]
    exhibits = tuple(_exhibit(result, folder) for result in taken)
    return Wall(title, note, len(chosen), len(chosen) / len(results), exhibits)


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
