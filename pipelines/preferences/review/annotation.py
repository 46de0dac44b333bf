"""What a reviewer answers, and what follows from it.

A reviewer is asked the same claims of both pictures and is told neither which is the winner nor what was changed. From
the answers follow a verdict on the pair and a vote for one of its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.preferences.review.pairs import ReviewPair

ANSWERS = ("yes", "no", "unsure")
VERDICTS = ("accept", "reject", "unsure")


@dataclass(frozen=True)
class Annotation:
    """One answer a claim, for each picture."""

    winner: tuple[str, ...]
    loser: tuple[str, ...]

    def check(self, pair: ReviewPair) -> None:
        """Raises ValueError unless every claim about both pictures has an answer."""
        for answers in (self.winner, self.loser):
            if len(answers) != pair.claims:
                raise ValueError(f"each picture of {pair.pair_id} needs {pair.claims} answers, got {len(answers)}")
            for answer in answers:
                if answer not in ANSWERS:
                    raise ValueError(f"an answer must be one of {', '.join(ANSWERS)}, got {answer!r}")


def verdict(pair: ReviewPair, ballot: Annotation) -> str:
    """Whether the pair is what it should be: accept, reject, or unsure where an unsure answer decides.

    perturbed: the winner keeps every claim; the loser violates the changed ones and keeps the rest.
    exploit: the winner keeps every claim and the loser does not.
    generated: the winner keeps more than the loser.
    """
    if pair.kind == "generated":
        least, most = (
            _num_satisfied(ballot.winner, unsure_counts=False),
            _num_satisfied(ballot.loser, unsure_counts=True),
        )
        if least > most:
            return "accept"
        best, worst = (
            _num_satisfied(ballot.winner, unsure_counts=True),
            _num_satisfied(ballot.loser, unsure_counts=False),
        )
        return "unsure" if best > worst else "reject"
    return _all_of([_kept(ballot.winner), _violated(pair, ballot.loser)])


def vote(pair: ReviewPair, ballot: Annotation) -> str:
    """For which picture a ballot speaks: "w", "l", "tie" or "unsure", as it stands in the row's `review.votes`."""
    if verdict(pair, ballot) == "unsure":
        return "unsure"
    winner, loser = (_num_satisfied(answers, unsure_counts=False) for answers in (ballot.winner, ballot.loser))
    return "w" if winner > loser else "l" if loser > winner else "tie"


def truth(pair: ReviewPair) -> Annotation | None:
    """The right answers about a pair whose truth is known and whose changed claims are named, else None."""
    if not (pair.gold and pair.changed):
        return None
    loser = tuple("no" if claim in pair.changed else "yes" for claim in range(pair.claims))
    return Annotation(("yes",) * pair.claims, loser)


def resolve(verdicts: Sequence[str], adjudication: str | None, per_pair: int) -> str:
    """What becomes of a pair: pending | accepted | rejected | disputed. An adjudicator who is unsure rejects it."""
    if adjudication:
        return "accepted" if adjudication == "accept" else "rejected"
    if len(verdicts) < per_pair:
        return "pending"
    if len(set(verdicts)) > 1 or "unsure" in verdicts:
        return "disputed"
    return "accepted" if verdicts[0] == "accept" else "rejected"


def _kept(answers: Sequence[str]) -> str:
    return "reject" if "no" in answers else "unsure" if "unsure" in answers else "accept"


def _violated(pair: ReviewPair, answers: Sequence[str]) -> str:
    if pair.changed:
        wanted = ["no" if claim in pair.changed else "yes" for claim in range(pair.claims)]
        return _all_of(
            ["unsure" if given == "unsure" else "accept" if given == asked else "reject"
             for given, asked in zip(answers, wanted, strict=True)]
        )  # fmt: skip
    if pair.n_perturb:  # so many of its claims, though the row does not say which
        violated, open_claims = answers.count("no"), answers.count("unsure")
        if not violated <= pair.n_perturb <= violated + open_claims:
            return "reject"
        return "unsure" if open_claims else "accept"
    return "accept" if "no" in answers else "unsure" if "unsure" in answers else "reject"


def _all_of(parts: Sequence[str]) -> str:
    return "reject" if "reject" in parts else "unsure" if "unsure" in parts else "accept"


def _num_satisfied(answers: Sequence[str], unsure_counts: bool) -> tuple[int, int]:
    """Relations that hold, then presence: how the scenes world orders two pictures of one prompt."""
    kept = [answer == "yes" or (unsure_counts and answer == "unsure") for answer in answers]
    return sum(kept[1:]), int(kept[0])
