"""Tables against numbers worked out by hand."""

import numpy as np
import pytest

from actors.types import Prompt, Relation
from pipelines.evaluation.cases import Assessment, Case, Result
from pipelines.evaluation.tables import bootstrap, share, tabulate

LEFT = Relation("red circle", "left of", "blue square")
ABOVE = Relation("blue square", "above", "green circle")


def _result(name: str, relations: tuple[Relation, ...], before: tuple[str, ...], after: tuple[str, ...]) -> Result:
    def sight(outcomes: tuple[str, ...], score: float) -> Assessment:
        things = {thing for relation in relations for thing in (relation.subject, relation.object)}
        present = dict.fromkeys(sorted(things), True)
        if "missing" in outcomes:
            present[sorted(things)[0]] = False
        return Assessment(score, present, outcomes, tuple("" for _ in outcomes))

    text = " and ".join(f"{r.subject} {r.relation} {r.object}" for r in relations) + name[0]
    return Result(Case(name, Prompt(name, text, relations), 0), sight(before, -1.0), sight(after, 2.0))


RESULTS = [
    _result("a0", (LEFT,), ("reversed",), ("right",)),
    _result("a1", (LEFT,), ("right",), ("right",)),
    _result("b0", (LEFT, ABOVE), ("right", "missing"), ("right", "other")),
    _result("c0", (LEFT, ABOVE), ("other", "right"), ("right", "right")),
]


def test_shares_are_those_counted_by_hand():
    tables = tabulate(RESULTS)
    found = {
        (table, row.name): (row.count, row.base.value, row.policy.value, row.difference.value)
        for table in ("relations", "by_relation", "objects", "perfect", "outcomes", "scores")
        for row in getattr(tables, table)
    }
    hand = {
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
    for key, expected in hand.items():
        assert found[key] == pytest.approx(expected), key
    assert ("by_relation", "below") not in found, "what was not asked has no row"


def test_shares_have_wilsons_interval():
    estimate = share(8, 10)  # by hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    assert (estimate.low, estimate.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share(10, 10).high == pytest.approx(1.0) and share(10, 10).low == pytest.approx(0.7225, abs=1e-4)


def test_the_differences_interval_holds_prompts_together():
    one_prompt = np.array([[1.0, 0.0]])  # twice the same 100 pictures: as one prompt each, and as 50 prompts
    together = bootstrap(np.repeat(one_prompt, 1, 0).ravel() * 50, np.array([50, 50]), 0)
    apart = bootstrap(np.tile(one_prompt.ravel(), 50), np.ones(100), 0)
    assert together.value == apart.value == 0.5
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_a_sure_gain_has_an_interval_above_zero_and_no_change_holds_zero():
    gain = [_result(f"{c}0", (LEFT,), ("reversed",), ("right",)) for c in "abcdefgh"]
    row = tabulate(gain).find("relations", "all")
    assert row is not None and row.difference.low == row.difference.high == 1.0
    same = [_result(f"{c}0", (LEFT,), ("right",), ("right",)) for c in "abcdefgh"]
    row = tabulate(same).find("relations", "all")
    assert row is not None and row.difference.low == row.difference.value == row.difference.high == 0.0


def test_without_a_checker_only_scores_are_told():
    blind = [Result(r.case, Assessment(0.5, {}, (), ()), Assessment(1.0, {}, (), ())) for r in RESULTS]
    tables = tabulate(blind)
    assert not (tables.relations or tables.objects or tables.perfect or tables.outcomes or tables.by_relation)
    assert [row.name for row in tables.scores] == ["all", "short prompts", "long prompts"]
