"""How often people overturn the answers of the judge that checked images before them.

Rows that passed the check are a biased sample: an image that the judge refused wrongly is not among them. So a random
share of the rows keeps its first images whatever the judge says (`preferences.audit_fraction`); it is counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.preferences.claims import ClaimRule
from pipelines.preferences.review.annotation import Annotation
from pipelines.preferences.review.settlement import settle
from pipelines.preferences.review.votes import Vote


@dataclass(frozen=True)
class Overturned:
    """Answers of the judge that people settled, and how many they settled otherwise."""

    answers: int = 0
    overturned: int = 0

    def __add__(self, other: Overturned) -> Overturned:
        return Overturned(self.answers + other.answers, self.overturned + other.overturned)

    def __str__(self) -> str:
        share = f"{self.overturned / self.answers:.1%} of " if self.answers else ""
        return f"{share}{self.answers}"


@dataclass(frozen=True)
class JudgeErrors:
    """The judge's answers against those of people."""

    passed: Overturned
    """About images that passed the check."""
    sample: Overturned
    """About the first images of a random sample of the rows."""

    def __str__(self) -> str:
        return (
            f"people overturned {self.sample} answers of the judge in a random sample, {self.passed} about images that "
            "had passed"
        )


def judge_errors(
    rows: Iterable[Mapping[str, Any]], rules: Mapping[str, ClaimRule], votes: Iterable[Vote], annotators_per_pair: int
) -> JudgeErrors:
    """Compares every claim that the votes settle with the judge's answer. `rows` have `pair_id` and `image_check`."""
    reviews: defaultdict[str, list[Annotation]] = defaultdict(list)
    adjudications: dict[str, Annotation] = {}
    for vote in votes:
        if vote.stage == "review":
            reviews[vote.pair_id].append(vote.annotation)
        elif vote.stage == "adjudication":
            adjudications[vote.pair_id] = vote.annotation
    totals = {False: Overturned(), True: Overturned()}
    for row in rows:
        pair, check = row["pair_id"], row["image_check"]
        if check and pair in reviews and pair in rules:
            settled = settle(rules[pair], reviews[pair], adjudications.get(pair), annotators_per_pair)
            totals[check["audit"]] += _compare([*check["winner"], *check["loser"]], [*settled.winner, *settled.loser])
    return JudgeErrors(totals[False], totals[True])


def _compare(judged: list[str], settled: list[str]) -> Overturned:
    certain = ("yes", "no")
    both = [(one, other) for one, other in zip(judged, settled, strict=True) if one in certain and other in certain]
    return Overturned(len(both), sum(one != other for one, other in both))
