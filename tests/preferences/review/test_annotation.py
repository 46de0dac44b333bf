"""The verdicts that follow from an annotator's answers, and the measures of agreement."""

from __future__ import annotations

import pytest

from pipelines.preferences.review.agreement import cohens_kappa, krippendorffs_alpha
from pipelines.preferences.review.annotation import Annotation, Verdict, resolve, truth, verdict, vote
from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.row_values import PairKind

RELATIONS = (("cup", "left of", "plate"), ("plate", "above", "fork"))
YES = ("yes", "yes", "yes")


def _pair(kind: PairKind = "perturbed", changed: tuple[int, ...] = (2,), n_perturb: int = 1) -> ReviewPair:
    return ReviewPair("p", kind, "a cup …", RELATIONS, changed, n_perturb, gold=True, status="accepted")


@pytest.mark.parametrize(
    ("winner", "loser", "expected_verdict", "expected_vote"),
    [
        (YES, ("yes", "yes", "no"), "accept", "w"),
        (YES, ("yes", "no", "yes"), "reject", "w"),  # another relation than the changed one fails
        (YES, ("yes", "no", "no"), "reject", "w"),  # a relation that should hold fails, too
        (YES, ("no", "yes", "no"), "reject", "w"),  # an object is missing
        (YES, YES, "reject", "tie"),
        (("yes", "yes", "no"), YES, "reject", "l"),  # the images look swapped
        (("yes", "unsure", "yes"), ("yes", "yes", "no"), "unsure", "unsure"),
        (("yes", "unsure", "no"), ("yes", "yes", "no"), "reject", "l"),  # rejected for every value of the unsure answer
    ],
)
def test_only_the_changed_claims_of_a_perturbed_pair_may_fail_and_only_for_the_loser(
    winner: tuple[str, ...], loser: tuple[str, ...], expected_verdict: str, expected_vote: str
) -> None:
    annotation = Annotation(winner, loser)
    assert (verdict(_pair(), annotation), vote(_pair(), annotation)) == (expected_verdict, expected_vote)


def test_the_number_of_failed_claims_counts_if_the_row_does_not_name_them() -> None:
    unnamed = _pair(changed=(), n_perturb=1)
    assert verdict(unnamed, Annotation(YES, ("yes", "no", "yes"))) == "accept"
    assert verdict(unnamed, Annotation(YES, ("yes", "no", "no"))) == "reject"
    assert verdict(unnamed, Annotation(YES, ("yes", "unsure", "yes"))) == "unsure"
    assert truth(unnamed) is None and truth(_pair()) == Annotation(YES, ("yes", "yes", "no"))


def test_the_loser_of_corrupted_and_generated_pairs_must_show_less() -> None:
    corrupted, generated = _pair("corrupted", (), 0), _pair("generated", (), 0)
    assert verdict(corrupted, Annotation(YES, ("no", "yes", "yes"))) == "accept"
    assert verdict(corrupted, Annotation(YES, YES)) == "reject"
    assert verdict(generated, Annotation(("yes", "yes", "no"), ("yes", "no", "no"))) == "accept"
    assert verdict(generated, Annotation(("yes", "no", "no"), ("yes", "no", "no"))) == "reject"
    assert verdict(generated, Annotation(("yes", "yes", "no"), ("yes", "unsure", "no"))) == "unsure"


def test_an_annotation_must_answer_every_claim_with_a_known_answer() -> None:
    with pytest.raises(ValueError, match="needs 3 answers, got 2"):
        Annotation(YES, ("yes", "no")).check(_pair())
    with pytest.raises(ValueError, match="one of yes, no, unsure, got 'maybe'"):
        Annotation(YES, ("yes", "no", "maybe")).check(_pair())


@pytest.mark.parametrize(
    ("verdicts", "adjudication", "status"),
    [
        (["accept"], None, "pending"),
        (["accept", "accept"], None, "accepted"),
        (["reject", "reject"], None, "rejected"),
        (["accept", "reject"], None, "disputed"),
        (["unsure", "unsure"], None, "disputed"),
        (["accept", "reject"], "accept", "accepted"),
        (["accept", "reject"], "unsure", "rejected"),
    ],
)
def test_two_annotators_or_an_adjudicator_decide_a_pair(
    verdicts: list[Verdict], adjudication: Verdict | None, status: str
) -> None:
    assert resolve(verdicts, adjudication, annotators_per_pair=2) == status


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
