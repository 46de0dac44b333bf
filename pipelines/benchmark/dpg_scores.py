"""DPG-Bench's scores. Equations: `compute_dpg_one_sample` and `main` of ELLA's dpg_bench/compute_dpg_bench.py.

For an image of an item and question q the raw score is 1 for the answer yes. A question also scores 0 if the answer to
one of its parents is no. The score of an image is the mean over questions, that of an item the mean over images, and
the overall score 100 times the mean over items. Categories pool raw scores of all questions of a category.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.benchmark.items import BenchmarkItem, Question
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.scores import Cell, Counts, Stratum, pool
from pipelines.benchmark.yes_no import meaning

LAST_IMAGE = "last image of each prompt only, as the official script counts"


class UnknownParent(Exception):
    """A question depends on one that does not exist; the official script drops the image."""


@dataclass(frozen=True)
class OfficialScores:
    """Scores of the official script."""

    cells: tuple[Cell, ...]
    lost: Mapping[str, int]  # reason -> items that are left out


def first_level(category: str) -> str:
    """The main category: "relation" of "relation - spatial", "global" of "global -"."""
    return category.split("-", maxsplit=1)[0].strip()


def official_questions(item: BenchmarkItem) -> dict[str, int]:
    """Returns id -> position in `item.questions` of the questions that the official script asks.

    It skips the first row of the file. A second block of rows of an item replaces the first one. A repeated id
    overwrites the question and keeps its place.
    """
    chosen: dict[str, int] = {}
    previous: int | None = None
    for position, question in enumerate(item.questions):
        if question.row == 0:
            continue
        if previous is None or question.row != previous + 1:
            chosen = {}
        chosen[question.id] = position
        previous = question.row
    return chosen


def zero_in_place(scores: Mapping[str, float], parents: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Sets the score of each question to 0, in order, if a parent has 0 by then. Raises UnknownParent.

    So a parent that stands later counts as it was answered, an earlier one as it was changed.
    """
    changed = dict(scores)
    for name, needed in parents.items():
        for parent in needed:
            if parent not in changed:
                raise UnknownParent(parent)
            if changed[parent] == 0:
                changed[name] = 0.0
                break
    return changed


def official_scores(judgements: Judgements) -> OfficialScores:
    """Scores all items as the official script does in one process. Items without all of their images are left out."""
    overall: dict[str, Counts] = {}
    categories: dict[str, dict[str, Counts]] = {}
    lost: dict[str, int] = {}
    for item in judgements.items:
        questions = official_questions(item)
        names = {name: item.questions[position].category for name, position in questions.items()}
        reason, images = _official_item(item, questions, judgements)
        if reason:
            lost[reason] = lost.get(reason, 0) + 1
            overall[item.id] = Counts(missing=1)
            for category in names.values():
                pool(categories, category, item.id, Counts(missing=1))
            continue
        overall[item.id] = Counts(sum(score for score, _ in images) / len(images), 1)
        for name, score in images[-1][1].items():
            pool(categories, names[name], item.id, Counts(score, 1))
    return OfficialScores(_cells(overall, categories, LAST_IMAGE), lost)


def _official_item(
    item: BenchmarkItem, questions: Mapping[str, int], judgements: Judgements
) -> tuple[str, list[tuple[float, dict[str, float]]]]:
    """Why an item is left out ("" if it is not), and the score and the raw scores of each of its images."""
    if not questions:
        return "no question: its only row is the first of the file, which is skipped", []
    if "." in item.id:
        return "a point in the item's name", []
    parents = {name: item.questions[position].parents for name, position in questions.items()}
    images: list[tuple[float, dict[str, float]]] = []
    for answer in judgements.answers(item):
        if answer is None or len(answer.values) != len(item.questions):
            return "an image without answers", []
        raw = {name: float(answer.values[position] == "yes") for name, position in questions.items()}
        try:
            scores = zero_in_place(raw, parents)
        except UnknownParent:
            return "a parent that does not exist", []
        images.append((sum(scores.values()) / len(scores), raw))
    return "" if images else "an image without answers", images


def fixed_cells(judgements: Judgements) -> tuple[Cell, ...]:
    """Scores all questions of all images. Missing answers are counted as missing, in every cell."""
    overall: dict[str, Counts] = {}
    raw: dict[str, dict[str, Counts]] = {}
    zeroed: dict[str, dict[str, Counts]] = {}
    for item in judgements.items:
        ancestors = [_ancestors(item.questions, position) for position in range(len(item.questions))]
        total = item.images * len(item.questions)
        for answer in judgements.answers(item):
            given = [meaning(value) for value in answer.values] if answer else []
            given = [*given, *[""] * len(item.questions)][: len(item.questions)]
            for position, question in enumerate(item.questions):
                right = given[position] == question.expected
                clear = right and not any(given[parent] == "no" for parent in ancestors[position])
                known = bool(given[position])
                pool(raw, question.category, item.id, Counts(float(right), known, not known))
                pool(zeroed, question.category, item.id, Counts(float(clear), known, not known))
                part = Counts(float(clear) / total, known / total, (not known) / total)
                overall[item.id] = overall.get(item.id, Counts()) + part
    return (*_cells(overall, raw, "all images"), *_category_cells(zeroed, "after dependencies", " zeroed"))


def _ancestors(questions: Sequence[Question], position: int) -> set[int]:
    """Positions of all questions that one depends on, directly or not. Unknown parents are ignored."""
    found: set[int] = set()
    waiting = [position]
    while waiting:
        parents = questions[waiting.pop()].parents
        new = {at for at, each in enumerate(questions) if each.id in parents} - found
        found |= new
        waiting.extend(new)
    return found - {position}


def _cells(
    overall: Mapping[str, Counts], categories: Mapping[str, Mapping[str, Counts]], note: str
) -> tuple[Cell, ...]:
    cell = Cell("overall", (Stratum("overall", overall),), scale="percent", table="overall")
    return (cell, *_category_cells(categories, note))


def _category_cells(categories: Mapping[str, Mapping[str, Counts]], note: str, suffix: str = "") -> Iterable[Cell]:
    main: dict[str, dict[str, Counts]] = {}
    for category, prompts in categories.items():
        for item, counts in prompts.items():
            pool(main, first_level(category), item, counts)
    for level, shares in (("L1", main), ("L2", categories)):
        for name in sorted(shares):
            strata = (Stratum(name, shares[name]),)
            yield Cell(name, strata, scale="percent", table=level + suffix, note=note)
