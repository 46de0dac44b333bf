"""Turns assessments into shares with intervals, and into paired differences of policy and base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from pipelines.common.intervals import wilson
from pipelines.evaluation.cases import Assessment, Result
from pipelines.scenes.checker import RelationOutcome
from pipelines.scenes.grammar import RELATIONS

RESAMPLES = 2000
"""Bootstrap resamples of each interval."""

TableName = Literal["relations", "by_relation", "objects", "perfect", "unrequested", "outcomes", "scores"]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One measure over some of the cases, before and after training."""

    name: str
    count: int  # denominator of the share: number of relations, objects or images
    base: Estimate
    policy: Estimate
    difference: Estimate  # policy - base, paired by prompt and noise


@dataclass(frozen=True)
class Tables:
    """All measures of an evaluation. Shares are between 0 and 1. Without the exact checker there are only scores."""

    relations: tuple[Row, ...]  # share of relations that hold: all, short and long prompts
    by_relation: tuple[Row, ...]  # the same by relation
    objects: tuple[Row, ...]  # share of objects shown cleanly, exactly once
    perfect: tuple[Row, ...]  # share of images with the prompt's objects and relations, and no other object
    unrequested: tuple[Row, ...]  # share of images with an object that the prompt does not name
    outcomes: tuple[Row, ...]  # share of relations by outcome
    scores: tuple[Row, ...]  # mean SpatialScore

    def find(self, table: TableName, name: str) -> Row | None:
        """Returns a row by the name of its table and its own; None if it was not measured."""
        rows: tuple[Row, ...] = getattr(self, table)
        return next((row for row in rows if row.name == name), None)


class Counted(NamedTuple):
    """The contribution of one image to a ratio."""

    numerator: float
    denominator: int


Measure = Callable[[Result, Assessment], Counted]
"""Measures one image."""


def tabulate(results: Sequence[Result], seed: int = 0) -> Tables:
    """Measures assessed cases. `seed` is that of the bootstrap."""
    subsets = {
        "all": list(results),
        "short prompts": [result for result in results if not result.case.long],
        "long prompts": [result for result in results if result.case.long],
    }

    def by_length(measure: Measure) -> tuple[Row, ...]:
        rows = (_row(name, subset, measure, seed) for name, subset in subsets.items())
        return tuple(row for row in rows if row)

    def over_all(measures: Mapping[str, Measure]) -> tuple[Row, ...]:
        rows = (_row(name, results, measure, seed) for name, measure in measures.items())
        return tuple(row for row in rows if row)

    return Tables(
        relations=by_length(_count_outcome("right")),
        by_relation=over_all({word: _count_outcome("right", word) for word in RELATIONS}),
        objects=by_length(lambda _, image: Counted(sum(image.present.values()), len(image.present))),
        perfect=by_length(lambda _, image: Counted(float(image.perfect), int(bool(image.outcomes)))),
        unrequested=by_length(lambda _, image: Counted(float(bool(image.unrequested)), int(bool(image.outcomes)))),
        outcomes=over_all({outcome: _count_outcome(outcome) for outcome in get_args(RelationOutcome)}),
        scores=by_length(_score),
    )


def share(right: int, count: int) -> Estimate:
    """Returns right / count with Wilson's 95 % score interval. `count` must not be 0."""
    accuracy = wilson(np.arange(count) < right)
    assert accuracy is not None
    return Estimate(accuracy.accuracy, accuracy.low, accuracy.high)


def bootstrap(sums: np.ndarray, counts: np.ndarray, seed: int) -> Estimate:
    """Returns a ratio of totals with its 95 % percentile interval. Whole prompts are drawn with replacement.

    sums [N]: numerator of each prompt; counts [N]: denominator of each prompt.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(sums), size=(RESAMPLES, len(sums)))  # [R, N]
    totals = counts[chosen].sum(1)
    ratios = sums[chosen].sum(1) / np.maximum(totals, 1)
    low, high = np.quantile(ratios[totals > 0], (0.025, 0.975))
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))


def _row(name: str, results: Sequence[Result], measure: Measure, seed: int) -> Row | None:
    """Returns None if the denominator is 0."""
    before = [measure(result, result.base) for result in results]
    after = [measure(result, result.policy) for result in results]
    count = sum(counted.denominator for counted in before)
    if not count:
        return None
    first_of = {result.case.prompt.text: i for i, result in reversed(list(enumerate(results)))}
    prompt = np.array([first_of[result.case.prompt.text] for result in results])  # groups the images of one prompt
    parts = np.zeros((3, len(results)))  # by prompt: numerator of base, numerator of policy, denominator
    np.add.at(parts[0], prompt, [counted.numerator for counted in before])
    np.add.at(parts[1], prompt, [counted.numerator for counted in after])
    np.add.at(parts[2], prompt, [counted.denominator for counted in before])
    base, policy, counts = parts[:, np.unique(prompt)]
    difference = bootstrap(policy - base, counts, seed)
    if measure is _score:
        return Row(name, count, bootstrap(base, counts, seed), bootstrap(policy, counts, seed), difference)
    return Row(name, count, share(int(base.sum()), count), share(int(policy.sum()), count), difference)


def _score(result: Result, image: Assessment) -> Counted:
    return Counted(image.score, 1)


def _count_outcome(outcome: RelationOutcome, word: str | None = None) -> Measure:
    """Counts the relations with `outcome`, among all relations or among those that read `word`."""

    def measure(result: Result, image: Assessment) -> Counted:
        found = [
            each
            for relation, each in zip(result.case.prompt.relations, image.outcomes, strict=False)
            if word in (None, relation.relation)
        ]
        return Counted(found.count(outcome), len(found))

    return measure
