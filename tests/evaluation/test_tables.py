"""Tables against numbers computed by hand."""

import numpy as np
import pytest

from actors.types import Prompt, Relation
from pipelines.evaluation.cases import Assessment, Case, Result
from pipelines.evaluation.tables import bootstrap, share, tabulate
from pipelines.scenes.checker import RelationOutcome

Outcomes = tuple[RelationOutcome, ...]

LEFT = Relation("red circle", "left of", "blue square")
ABOVE = Relation("blue square", "above", "green circle")


def _result(name: str, relations: tuple[Relation, ...], before: Outcomes, after: Outcomes) -> Result:
    def assessment(outcomes: Outcomes, score: float) -> Assessment:
        names = {name for relation in relations for name in (relation.subject, relation.object)}
        present = dict.fromkeys(sorted(names), True)
        if "missing" in outcomes:
            present[sorted(names)[0]] = False
        return Assessment(score, present, outcomes, tuple("" for _ in outcomes))

    text = " and ".join(f"{r.subject} {r.relation} {r.object}" for r in relations) + name[0]
    return Result(Case(name, Prompt(name, text, relations), 0), assessment(before, -1.0), assessment(after, 2.0))


RESULTS = [
    _result("a0", (LEFT,), ("reversed",), ("right",)),
    _result("a1", (LEFT,), ("right",), ("right",)),
    _result("b0", (LEFT, ABOVE), ("right", "missing"), ("right", "other")),
    _result("c0", (LEFT, ABOVE), ("other", "right"), ("right", "right")),
]


def test_shares_equal_those_counted_by_hand() -> None:
    tables = tabulate(RESULTS)
    found = {
        (table, row.name): (row.count, row.base.value, row.policy.value, row.difference.value)
        for table in ("relations", "by_relation", "objects", "perfect", "outcomes", "scores")
        for row in getattr(tables, table)
    }
    expected = {
        ("relations", "all"): (6, 3 / 6, 5 / 6, 2 / 6),
        ("relations", "short prompts"): (2, 1 / 2, 1.0, 1 / 2),
        ("relations", "long prompts"): (4, 2 / 4, 3 / 4, 1 / 4),
        ("by_relation", "left of"): (4, 2 / 4, 1.0, 2 / 4),
        ("by_relation", "above"): (2, 1 / 2, 1 / 2, 0.0),
        ("objects", "all"): (10, 9 / 10, 1.0, 1 / 10),
        ("objects", "long prompts"): (6, 5 / 6, 1.0, 1 / 6),
        ("perfect", "all"): (4, 1 / 4, 3 / 4, 2 / 4),
        ("outcomes", "reversed"): (6, 1 / 6, 0.0, -1 / 6),
        ("outcomes", "other"): (6, 1 / 6, 1 / 6, 0.0),
        ("outcomes", "missing"): (6, 1 / 6, 0.0, -1 / 6),
        ("scores", "all"): (4, -1.0, 2.0, 3.0),
    }
    for key, values in expected.items():
        assert found[key] == pytest.approx(values), key
    assert ("by_relation", "below") not in found, "a relation that no prompt has gets no row"


def test_shares_have_wilsons_interval() -> None:
    estimate = share(8, 10)  # by hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share(10, 10).high == pytest.approx(1.0)
    assert share(10, 10).low == pytest.approx(0.7225, abs=1e-4)


def test_the_bootstrap_resamples_whole_prompts() -> None:
    """The same 100 images as 2 prompts of 50, and as 100 prompts of 1."""
    two_prompts = bootstrap(np.array([50.0, 0.0]), np.array([50, 50]), 0)
    many_prompts = bootstrap(np.tile([1.0, 0.0], 50), np.ones(100), 0)
    assert two_prompts.value == many_prompts.value == 0.5
    assert two_prompts.high - two_prompts.low > 2 * (many_prompts.high - many_prompts.low)


def test_the_interval_of_a_certain_gain_is_above_zero_and_that_of_no_change_is_zero() -> None:
    gain = [_result(f"{c}0", (LEFT,), ("reversed",), ("right",)) for c in "abcdefgh"]
    row = tabulate(gain).find("relations", "all")
    assert row is not None
    assert row.difference.low == row.difference.high == 1.0
    same = [_result(f"{c}0", (LEFT,), ("right",), ("right",)) for c in "abcdefgh"]
    row = tabulate(same).find("relations", "all")
    assert row is not None
    assert row.difference.low == row.difference.value == row.difference.high == 0.0


def test_without_the_exact_checker_there_are_only_scores() -> None:
    unchecked = [Result(r.case, Assessment(0.5, {}, (), ()), Assessment(1.0, {}, (), ())) for r in RESULTS]
    tables = tabulate(unchecked)
    assert not (tables.relations or tables.objects or tables.perfect or tables.outcomes or tables.by_relation)
    assert [row.name for row in tables.scores] == ["all", "short prompts", "long prompts"]
