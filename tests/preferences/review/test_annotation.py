"""What follows from a reviewer's answers, and how agreement is counted."""

import pytest

from pipelines.preferences.review.agreement import cohens_kappa, krippendorffs_alpha
from pipelines.preferences.review.annotation import Annotation, resolve, truth, verdict, vote
from pipelines.preferences.review.pairs import ReviewPair

RELATIONS = (("cup", "left of", "plate"), ("plate", "above", "fork"))
YES = ("yes", "yes", "yes")


def _pair(kind: str = "perturbed", changed: tuple[int, ...] = (2,), n_perturb: int = 1) -> ReviewPair:
    return ReviewPair("p", kind, "a cup …", RELATIONS, changed, n_perturb, gold=True, status="accepted")


@pytest.mark.parametrize(
    ("winner", "loser", "expected", "spoken"),
    [
        (YES, ("yes", "yes", "no"), "accept", "w"),
        (YES, ("yes", "no", "yes"), "reject", "w"),  # another relation than the changed one is violated
        (YES, ("yes", "no", "no"), "reject", "w"),  # so is one that should have been kept
        (YES, ("no", "yes", "no"), "reject", "w"),  # an object is missing
        (YES, YES, "reject", "tie"),
        (("yes", "yes", "no"), YES, "reject", "l"),  # the pictures look exchanged
        (("yes", "unsure", "yes"), ("yes", "yes", "no"), "unsure", "unsure"),
        (("yes", "unsure", "no"), ("yes", "yes", "no"), "reject", "l"),  # rejected whatever the unsure one is
    ],
)
def test_a_perturbed_pair_keeps_all_in_one_picture_and_all_but_the_changed_in_the_other(
    winner, loser, expected, spoken
):
    ballot = Annotation(winner, loser)
    assert (verdict(_pair(), ballot), vote(_pair(), ballot)) == (expected, spoken)


def test_where_the_row_does_not_name_the_changed_claims_their_number_counts():
    unnamed = _pair(changed=(), n_perturb=1)
    assert verdict(unnamed, Annotation(YES, ("yes", "no", "yes"))) == "accept"
    assert verdict(unnamed, Annotation(YES, ("yes", "no", "no"))) == "reject"
    assert verdict(unnamed, Annotation(YES, ("yes", "unsure", "yes"))) == "unsure"
    assert truth(unnamed) is None and truth(_pair()) == Annotation(YES, ("yes", "yes", "no"))


def test_spoiled_and_generated_pairs_need_a_loser_that_shows_less():
    exploit, generated = _pair("exploit", (), 0), _pair("generated", (), 0)
    assert verdict(exploit, Annotation(YES, ("no", "yes", "yes"))) == "accept"
    assert verdict(exploit, Annotation(YES, YES)) == "reject"
    assert verdict(generated, Annotation(("yes", "yes", "no"), ("yes", "no", "no"))) == "accept"
    assert verdict(generated, Annotation(("yes", "no", "no"), ("yes", "no", "no"))) == "reject"
    assert verdict(generated, Annotation(("yes", "yes", "no"), ("yes", "unsure", "no"))) == "unsure"


def test_a_ballot_that_does_not_fit_is_refused():
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
def test_two_reviewers_settle_a_pair_or_an_adjudicator_does(verdicts, adjudication, status):
    assert resolve(verdicts, adjudication, per_pair=2) == status


def test_kappa_is_that_of_the_textbook():
    # 50 proposals, two readers: 20 both yes, 15 both no, 5 and 10 apart: kappa 0.4 (Wikipedia, after Cohen 1960)
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([]) is None and cohens_kappa([("y", "y")] * 9) is None


def test_alpha_is_that_of_krippendorffs_example():
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
