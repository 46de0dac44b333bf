"""The verdicts that follow from an annotator's answers, and the measures of agreement."""

from __future__ import annotations

import pytest

from pipelines.preferences.claims import Answer, ClaimRule, outcome, rule_of
from pipelines.preferences.review.agreement import cohens_kappa, krippendorffs_alpha
from pipelines.preferences.review.annotation import Annotation, Asked, truth, verdict, vote
from pipelines.preferences.review.doubts import Doubts
from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.review.settlement import settle
from pipelines.preferences.row_values import PairKind

RELATIONS = (("cup", "left of", "plate"), ("plate", "above", "fork"))
RULE = rule_of("perturbed", RELATIONS, ["plate above fork"], 1)
"""Claims 0 to 2 are the objects, 3 and 4 the relations; claim 4 is changed."""
YES: tuple[Answer, ...] = ("yes",) * 5
_LETTERS: dict[str, Answer] = {"y": "yes", "n": "no", "u": "unsure", "-": ""}


def _given(text: str) -> tuple[Answer, ...]:
    return tuple(_LETTERS[letter] for letter in text)


def _annotation(text: str) -> Annotation:
    winner, loser = text.split("/")
    return Annotation(_given(winner), _given(loser))


def _unnamed(kind: PairKind, n_perturb: int = 0) -> ClaimRule:
    return rule_of(kind, RELATIONS, [], n_perturb)


def test_claims_are_the_objects_and_the_relations() -> None:
    assert (RULE.objects, RULE.relations, RULE.claims, RULE.changed) == (3, 2, 5, (4,))
    assert rule_of("corrupted", RELATIONS, ["fork"], 0).changed == (2,), "the object that the loser lacks"
    assert rule_of("perturbed", (), [], 0).claims == 1, "a prompt without known relations is one claim"
    pair = ReviewPair("p", "a cup …", RELATIONS, RULE, gold=True, status="accepted", doubts=Doubts())
    assert pair.claims == (("cup",), ("plate",), ("fork",), *RELATIONS)
    assert truth(pair) == _annotation("yyyyy/yyyyn")


@pytest.mark.parametrize(
    ("rule", "answers", "expected"),
    [
        (RULE, "yyyyy/yyyyn", "strict"),
        (RULE, "yyyyy/yyynn", "ordered"),  # a relation that should hold fails, too
        (RULE, "yyyyy/nyyun", "ordered"),
        (RULE, "yyyyy/yyyyy", "rejected"),
        (RULE, "yyyyy/yyyny", "rejected"),  # another relation than the changed one fails
        (RULE, "yyyyy/----u", "rejected"),  # nobody can tell whether the changed relation fails
        (RULE, "yyyyn/-----", "rejected"),  # decided by one claim about the winner
        (RULE, "u----/-----", "rejected"),
        (RULE, "yyyyy/--n-n", "ordered"),  # whatever the other claims are
        (RULE, "yyyyy/----y", "rejected"),
        (RULE, "yyyy-/--n-n", "winner (4,) loser ()"),
        (RULE, "yyyyy/--n--", "winner () loser (4,)"),  # only the changed claim matters now
        (RULE, "yyyyy/yy--n", "winner () loser (2, 3)"),
        (_unnamed("perturbed", 1), "yyyyy/ynyyy", "strict"),
        (_unnamed("perturbed", 1), "yyyyy/ynnyy", "ordered"),
        (_unnamed("perturbed", 1), "yyyyy/yuyyy", "rejected"),
        (_unnamed("corrupted"), "yyyyy/n----", "ordered"),
        (_unnamed("corrupted"), "yyyyy/yyyyy", "rejected"),
        (_unnamed("generated"), "yyyyn/yyynn", "ordered"),
        (_unnamed("generated"), "yyynn/yyyyn", "rejected"),
        (_unnamed("generated"), "yyyy-/yyynn", "ordered"),
        (_unnamed("generated"), "yyyn-/yyynn", "winner (4,) loser ()"),
    ],
)
def test_settled_claims_decide_the_tier_and_open_ones_are_asked_only_if_they_matter(
    rule: ClaimRule, answers: str, expected: str
) -> None:
    given = _annotation(answers)
    result = outcome(rule, given.winner, given.loser)
    found = result.tier or result.status
    assert (f"winner {result.winner} loser {result.loser}" if found == "open" else found) == expected


@pytest.mark.parametrize(
    ("reviews", "adjudication", "expected"),
    [
        ("yyyyy/yyyyn", None, "pending: 5 + 5 claims, 1 more"),
        ("yyyyy/yyyyn yyyyy/yyyyn", None, "strict"),
        ("yyyyn/yyyyn yyyyn/nnnnn", None, "rejected"),  # both say no about the winner: the rest is not asked
        ("yyyyy/yyyyn yyyyn/nyyyn", None, "disputed: (4,) (0,)"),  # only the disputed claims
        ("yyyyy/yyyyn yyyyn/nyyyn", "----y/y----", "strict"),
        ("yyyyy/yyyyn yyyyn/nyyyn", "----y/n----", "ordered"),
        ("yyyyy/yyyyn yyyyn/nyyyn", "----n/y----", "rejected"),
        ("yyyyy/yyynn nyyyy/yyynn", None, "disputed: (0,) ()"),  # of the loser no claim matters any more
        ("uyyyy/yyyyn uyyyy/yyyyn", None, "disputed: (0,) ()"),
        ("uyyyy/yyyyn uyyyy/yyyyn", "u----/-----", "rejected"),
    ],
)
def test_claims_are_settled_by_two_annotators_and_by_a_third_where_they_disagree(
    reviews: str, adjudication: str | None, expected: str
) -> None:
    state = settle(
        RULE, [_annotation(one) for one in reviews.split()], _annotation(adjudication) if adjudication else None, 2
    )
    found = state.tier or state.status
    if found == "pending":
        found = f"pending: {len(state.asked.winner)} + {len(state.asked.loser)} claims, {state.wanted} more"
    if found == "disputed":
        found = f"disputed: {state.asked.winner} {state.asked.loser}"
    assert found == expected


def test_the_third_of_three_annotators_is_asked_only_what_two_have_not_settled() -> None:
    reviews = [_annotation("yyyyy/yyyyn"), _annotation("yyyyn/yyyyn")]
    state = settle(RULE, reviews, None, 3)
    assert (state.status, state.asked, state.wanted) == ("pending", Asked((4,), ()), 1)
    assert settle(RULE, [*reviews, _annotation("----y/-----")], None, 3).tier == "strict"
    assert settle(RULE, reviews[:1], None, 1).tier == "strict"


def test_a_bad_prompt_rejects_the_pair_if_the_majority_says_so() -> None:
    bad, good = Annotation.of_bad_prompt(5, note="the cup cannot be left and right"), _annotation("yyyyy/yyyyn")
    assert settle(RULE, [bad, bad], None, 2).status == "rejected"
    disputed = settle(RULE, [bad, good], None, 2)
    assert disputed.status == "disputed" and disputed.asked == Asked.everything(5)
    assert settle(RULE, [bad, good], bad, 2).status == "rejected"
    assert settle(RULE, [bad, good], good, 2).tier == "strict"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("yyyyy/yyyyn", ("accept", "w")),
        ("yyyyy/yyyyy", ("reject", "tie")),
        ("yyyyn/yyyyy", ("reject", "l")),
        ("yuyyy/yyyyn", ("unsure", "unsure")),
        ("yuyyn/yyyyn", ("reject", "l")),
        ("yyyyy/yyunn", ("accept", "w")),
    ],
)
def test_one_annotation_prefers_an_image(answers: str, expected: tuple[str, str]) -> None:
    annotation = _annotation(answers)
    assert (verdict(RULE, annotation), vote(RULE, annotation)) == expected


def test_an_annotation_must_answer_every_claim_that_is_asked_with_a_known_answer() -> None:
    with pytest.raises(ValueError, match="needs 5 answers, got 4"):
        Annotation(YES, YES[1:]).check(5, Asked.everything(5))
    with pytest.raises(ValueError, match="one of yes, no, unsure, got 'maybe'"):
        Annotation(YES, (*YES[1:], "maybe")).check(5, Asked((), ()))  # type: ignore[arg-type]
    partial = _annotation("----y/-----")
    partial.check(5, Asked((4,), ()))
    with pytest.raises(ValueError, match="one of yes, no, unsure, got ''"):
        partial.check(5, Asked((3, 4), ()))
    with pytest.raises(ValueError, match="at most 500 characters, got 501"):
        Annotation(YES, YES, note="x" * 501).check(5, Asked.everything(5))


def test_kappa_of_a_textbook_example() -> None:
    # 50 proposals, two readers: 20 both yes, 15 both no, 5 and 10 different: kappa 0.4 (Wikipedia, after Cohen 1960)
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([]) is None and cohens_kappa([("y", "y")] * 9) is None


def test_alpha_of_krippendorffs_example() -> None:
    # Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: 4 observers, 12 units, nominal: 0.743
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[label for label in unit if label is not None] for unit in zip(*observers, strict=True)]
    assert krippendorffs_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorffs_alpha([["a", "a"], ["a", "a"]]) is None
