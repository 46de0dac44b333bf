"""An annotator's answers, and what follows from them.

An annotator is asked the same claims about both images, and is not told which image is the winner or what was changed.
The answers determine a verdict on the pair and a vote for one of its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.row_values import PreferenceVote, ReviewStatus

Verdict = Literal["accept", "reject", "unsure"]
ANSWERS = ("yes", "no", "unsure")
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Annotation:
    """One answer for each claim, about each image."""

    winner: tuple[str, ...]
    loser: tuple[str, ...]

    def check(self, pair: ReviewPair) -> None:
        """Raises ValueError unless every claim about both images has an answer."""
        for answers in (self.winner, self.loser):
            if len(answers) != pair.claims:
                raise ValueError(f"each image of {pair.pair_id} needs {pair.claims} answers, got {len(answers)}")
            for answer in answers:
                if answer not in ANSWERS:
                    raise ValueError(f"an answer must be one of {', '.join(ANSWERS)}, got {answer!r}")

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers about the winner, then those about the loser."""
        return self.winner + self.loser


def verdict(pair: ReviewPair, annotation: Annotation) -> Verdict:
    """Whether the pair is valid: accept, reject, or unsure if the result depends on an unsure answer.

    perturbed: all claims hold for the winner; for the loser the changed claims fail and the others hold.
    corrupted: all claims hold for the winner and not for the loser.
    generated: more claims hold for the winner than for the loser.
    """
    winner, loser = annotation.winner, annotation.loser
    if pair.kind == "generated":
        if _num_satisfied(winner, count_unsure=False) > _num_satisfied(loser, count_unsure=True):
            return "accept"
        possible = _num_satisfied(winner, count_unsure=True) > _num_satisfied(loser, count_unsure=False)
        return "unsure" if possible else "reject"
    return _combine([_winner_verdict(winner), _loser_verdict(pair, loser)])


def vote(pair: ReviewPair, annotation: Annotation) -> PreferenceVote:
    """The image that an annotation prefers, as it is stored in the row's `review.votes`."""
    if verdict(pair, annotation) == "unsure":
        return "unsure"
    winner = _num_satisfied(annotation.winner, count_unsure=False)
    loser = _num_satisfied(annotation.loser, count_unsure=False)
    return "w" if winner > loser else "l" if loser > winner else "tie"


def truth(pair: ReviewPair) -> Annotation | None:
    """The correct answers about a pair whose truth and changed claims are known, else None."""
    if not (pair.gold and pair.changed):
        return None
    loser = tuple("no" if claim in pair.changed else "yes" for claim in range(pair.claims))
    return Annotation(("yes",) * pair.claims, loser)


def resolve(verdicts: Sequence[Verdict], adjudication: Verdict | None, annotators_per_pair: int) -> ReviewStatus:
    """The status of a pair. An adjudicator who is unsure rejects it."""
    if adjudication:
        return "accepted" if adjudication == "accept" else "rejected"
    if len(verdicts) < annotators_per_pair:
        return "pending"
    if len(set(verdicts)) > 1 or "unsure" in verdicts:
        return "disputed"
    return "accepted" if verdicts[0] == "accept" else "rejected"


def _winner_verdict(answers: Sequence[str]) -> Verdict:
    """Whether all claims hold."""
    return "reject" if "no" in answers else "unsure" if "unsure" in answers else "accept"


def _loser_verdict(pair: ReviewPair, answers: Sequence[str]) -> Verdict:
    """Whether the right claims fail."""
    if pair.changed:
        expected = ["no" if claim in pair.changed else "yes" for claim in range(pair.claims)]
        return _combine([_match(answer, right) for answer, right in zip(answers, expected, strict=True)])
    if pair.n_perturb:  # this number of claims must fail, but the row does not name them
        failed, unsure = answers.count("no"), answers.count("unsure")
        if not failed <= pair.n_perturb <= failed + unsure:
            return "reject"
        return "unsure" if unsure else "accept"
    return "accept" if "no" in answers else "unsure" if "unsure" in answers else "reject"


def _match(answer: str, expected: str) -> Verdict:
    return "unsure" if answer == "unsure" else "accept" if answer == expected else "reject"


def _combine(parts: Sequence[Verdict]) -> Verdict:
    """Accepts if all parts accept, rejects if one part rejects."""
    return "reject" if "reject" in parts else "unsure" if "unsure" in parts else "accept"


def _num_satisfied(answers: Sequence[str], count_unsure: bool) -> tuple[int, int]:
    """Relations that hold, then presence: the order of two images of one prompt. `count_unsure`: as if they held."""
    holds = [answer == "yes" or (count_unsure and answer == "unsure") for answer in answers]
    return sum(holds[1:]), int(holds[0])
