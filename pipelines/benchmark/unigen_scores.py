"""UniGenBench++'s scores: `calculate_scores` of the authors' eval/src/eval_common.py, and the leaderboard's overall.

The accuracy of a test point, or of a primary dimension, is right answers over answers of all images. The leaderboard's
overall is the mean of the primary dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pipelines.benchmark.items import Answer, BenchmarkItem, ScoreProtocol
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.scores import Cell, Counts, Stratum, pool

LAYOUT = "Entity Layout"
LAYOUT_2D, LAYOUT_3D = f"{LAYOUT} - Two-Dimensional Space", f"{LAYOUT} - Three-Dimensional Space"
PRIMARY_DIMENSIONS = 10
RIGHT, WRONG = ("1", "1.0", "True"), ("0", "0.0", "False")

Shares = Mapping[str, Mapping[str, Counts]]


def is_layout(testpoint: str) -> bool:
    """Whether a test point is about the layout of entities: the paper's cells 2D and 3D."""
    return testpoint in (LAYOUT_2D, LAYOUT_3D)


def primary_of(testpoint: str, protocol: ScoreProtocol) -> str:
    """The primary dimension of a test point; by the official rule its name keeps the blank before the hyphen."""
    name = testpoint.split("-", 1)[0] if "-" in testpoint else testpoint
    return name if protocol == "official" else name.strip()


def count_lost(judgements: Judgements) -> dict[str, int]:
    """Reason -> images that have an answer which the official script cannot read back."""
    lost = sum(
        answer.officially_lost for item in judgements.items for answer in judgements.answers(item) if answer is not None
    )
    return {"an answer that the official script cannot read from its own file": lost} if lost else {}


def cells(judgements: Judgements, protocol: ScoreProtocol) -> tuple[Cell, ...]:
    """Cells of the tables "primary", "sub" and "overall". Only layout, if every item was chosen for its layout."""
    primary: dict[str, dict[str, Counts]] = {}
    sub: dict[str, dict[str, Counts]] = {}
    items = judgements.items
    layout_only = bool(items) and all(any(is_layout(each.category) for each in item.questions) for item in items)
    for item in items:
        for answer in judgements.answers(item):
            for testpoint, counts in _count(item, answer, protocol):
                if not layout_only or is_layout(testpoint):
                    pool(primary, primary_of(testpoint, protocol), item.id, counts)
                    pool(sub, testpoint, item.id, counts)
    digits = 4 if protocol == "official" else None
    overall = tuple(Stratum(name, prompts) for name, prompts in primary.items())
    return (
        *([Cell("overall", overall, table="overall")] if len(primary) == PRIMARY_DIMENSIONS else []),
        *_table(primary, "primary", digits),
        *_table(sub, "sub", digits),
    )


def _table(shares: Shares, table: str, digits: int | None) -> Iterator[Cell]:
    """One cell a share. Blanks around a name are left out, unless two names would be equal without them."""
    plain = Counter(name.strip() for name in shares)
    for name in sorted(shares):
        shown = name.strip() if plain[name.strip()] == 1 else name
        yield Cell(shown, (Stratum(name, shares[name]),), table=table, stratum_digits=digits)


def _count(item: BenchmarkItem, answer: Answer | None, protocol: ScoreProtocol) -> Iterator[tuple[str, Counts]]:
    """Test point and counts of each question of one image.

    Official: an answer that cannot be read back is left out, and a shorter list of answers cuts the questions. Fixed:
    a score that is neither 0 nor 1 is missing.
    """
    official = protocol == "official"
    values = answer.values if answer and not (official and answer.officially_lost) else ()
    for position, question in enumerate(item.questions):
        value = values[position] if position < len(values) else None
        if value is None:
            yield question.category, Counts(missing=1)
        elif official:
            yield question.category, Counts(float(_equals_one(value)), 1)
        else:
            plain = value.strip("'\" ")
            known = plain in RIGHT or plain in WRONG
            yield question.category, Counts(float(plain in RIGHT), known, not known)


def _equals_one(value: str) -> bool:
    """Whether a score, as Python writes it, equals 1. Strings do not."""
    if value == "True":
        return True
    try:
        return float(value) == 1
    except ValueError:
        return False
