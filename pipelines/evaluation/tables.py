"""Counts -> shares with intervals, and the paired difference of policy and base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.common.intervals import wilson
from pipelines.evaluation.cases import Assessment, Result
from pipelines.scenes.grammar import RELATIONS

OUTCOMES = ("right", "reversed", "other", "missing")
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One measure over some of the cases, before and after."""

    name: str
    count: int  # what the share is of: relations, objects or pictures
    base: Estimate
    policy: Estimate
    difference: Estimate  # policy - base, paired by prompt and noise


@dataclass(frozen=True)
class Tables:
    """All that an evaluation measured. Shares are between 0 and 1; without an exact checker only scores are known."""

    relations: tuple[Row, ...]  # share of relations drawn right: all, short, long
    by_relation: tuple[Row, ...]  # the same by word
    objects: tuple[Row, ...]  # share of objects drawn cleanly, exactly once
    perfect: tuple[Row, ...]  # share of pictures with every object and every relation right
    outcomes: tuple[Row, ...]  # share of relations by what became of them
    scores: tuple[Row, ...]  # mean SpatialScore

    def find(self, table: str, name: str) -> Row | None:
        """A row by the names of its table and of itself, if it was measured."""
        return next((row for row in getattr(self, table) if row.name == name), None)


Measure = Callable[[Result, Assessment], tuple[float, int]]
"""Of one picture: how much it adds to the numerator and to the denominator."""


def tabulate(results: Sequence[Result], seed: int = 0) -> Tables:
    """Measures judged cases; `seed` draws the resamples of the differences' intervals."""
    subsets = {
        "all": list(results),
        "short prompts": [result for result in results if not result.case.long],
        "long prompts": [result for result in results if result.case.long],
    }

    def rows(measure: Measure) -> tuple[Row, ...]:
        made = (_row(name, chosen, measure, seed) for name, chosen in subsets.items())
        return tuple(row for row in made if row)

    def over_all(measures: dict[str, Measure]) -> tuple[Row, ...]:
        made = (_row(name, results, measure, seed) for name, measure in measures.items())
        return tuple(row for row in made if row)

    return Tables(
        relations=rows(_outcome("right")),
        by_relation=over_all({word: _outcome("right", word) for word in RELATIONS}),
        objects=rows(lambda _, sight: (sum(sight.present.values()), len(sight.present))),
        perfect=rows(lambda _, sight: (float(sight.perfect), int(bool(sight.outcomes)))),
        outcomes=over_all({outcome: _outcome(outcome) for outcome in OUTCOMES}),
        scores=rows(_score),
    )


def share(right: int, count: int) -> Estimate:
    """A share with Wilson's 95 % score interval; `count` must not be 0."""
    accuracy = wilson(np.arange(count) < right)
    assert accuracy is not None
    return Estimate(accuracy.accuracy, accuracy.low, accuracy.high)


def bootstrap(sums: np.ndarray, counts: np.ndarray, seed: int) -> Estimate:
    """A ratio of totals with its 95 % percentile interval when whole prompts are drawn again with replacement.

    sums [N]: each prompt's part of the numerator; counts [N]: its part of the denominator.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(sums), size=(RESAMPLES, len(sums)))  # [R, N]
    totals = counts[chosen].sum(1)
    ratios = sums[chosen].sum(1) / np.maximum(totals, 1)
    low, high = np.quantile(ratios[totals > 0], (0.025, 0.975))
    return Estimate(float(sums.sum() / counts.sum()), float(low), float(high))


def _row(name: str, results: Sequence[Result], measure: Measure, seed: int) -> Row | None:
    """None where nothing was measured."""
    before = [measure(result, result.base) for result in results]
    after = [measure(result, result.policy) for result in results]
    count = sum(counted for _, counted in before)
    if not count:
        return None
    prompts = {result.case.prompt.text: i for i, result in reversed(list(enumerate(results)))}
    first = np.array([prompts[result.case.prompt.text] for result in results])  # all of a prompt's pictures together
    parts = np.zeros((3, len(results)))  # base's numerator, policy's numerator, denominator; by prompt
    np.add.at(parts[0], first, [value for value, _ in before])
    np.add.at(parts[1], first, [value for value, _ in after])
    np.add.at(parts[2], first, [counted for _, counted in before])
    base, policy, counts = parts[:, np.unique(first)]
    difference = bootstrap(policy - base, counts, seed)
    if measure is not _score:
        return Row(name, count, share(int(base.sum()), count), share(int(policy.sum()), count), difference)
    return Row(name, count, bootstrap(base, counts, seed), bootstrap(policy, counts, seed), difference)


def _score(result: Result, sight: Assessment) -> tuple[float, int]:
    return sight.score, 1


def _outcome(outcome: str, word: str | None = None) -> Measure:
    """Counts relations with `outcome` among those that read `word`."""

    def measure(result: Result, sight: Assessment) -> tuple[float, int]:
        asked = result.case.prompt.relations
        seen = [
            found for relation, found in zip(asked, sight.outcomes, strict=False) if word in (None, relation.relation)
        ]
        return seen.count(outcome), len(seen)

    return measure
