"""An annotator's answers about the claims of a pair.

An annotator is asked the same claims about both images, and is not told which image is the winner or what was changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.preferences.claims import ANSWERS, Answer, ClaimRule, outcome
from pipelines.preferences.review.pairs import ReviewPair
from pipelines.preferences.row_values import PreferenceVote

Verdict = Literal["accept", "reject", "unsure"]
MAX_NOTE = 500
"""Most characters of an annotator's note."""


@dataclass(frozen=True)
class Asked:
    """The numbers of the claims that are asked about each image."""

    winner: tuple[int, ...]
    loser: tuple[int, ...]

    @classmethod
    def everything(cls, claims: int) -> Asked:
        """All claims about both images."""
        return cls(tuple(range(claims)), tuple(range(claims)))


@dataclass(frozen=True)
class Annotation:
    """One annotator's answers, "" for a claim without one."""

    winner: tuple[Answer, ...]
    loser: tuple[Answer, ...]
    bad_prompt: bool = False  # the prompt contradicts itself or cannot be understood; then every answer is unsure
    note: str = ""  # for the adjudicators and for whoever runs the review

    @classmethod
    def of_bad_prompt(cls, claims: int, note: str = "") -> Annotation:
        """The annotation of somebody who cannot judge images against this prompt."""
        return cls(("unsure",) * claims, ("unsure",) * claims, bad_prompt=True, note=note)

    def check(self, claims: int, asked: Asked) -> None:
        """Raises ValueError unless every claim that is asked has an answer, and the others an answer or none."""
        if len(self.note) > MAX_NOTE:
            raise ValueError(f"a note must have at most {MAX_NOTE} characters, got {len(self.note)}")
        for answers, needed in ((self.winner, asked.winner), (self.loser, asked.loser)):
            if len(answers) != claims:
                raise ValueError(f"each image needs {claims} answers, got {len(answers)}")
            for claim, answer in enumerate(answers):
                if answer not in ANSWERS and (answer or claim in needed):
                    raise ValueError(f"an answer must be one of {', '.join(ANSWERS)}, got {answer!r}")

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers about the winner, then those about the loser."""
        return self.winner + self.loser

    @property
    def complete(self) -> bool:
        """Whether every claim about both images has an answer."""
        return all(self.answers)


def verdict(rule: ClaimRule, annotation: Annotation) -> Verdict:
    """What a single annotation says about the pair: unsure if the outcome depends on a claim without yes or no."""
    result = outcome(rule, _certain(annotation.winner), _certain(annotation.loser))
    return "accept" if result.status == "accepted" else "reject" if result.status == "rejected" else "unsure"


def vote(rule: ClaimRule, annotation: Annotation) -> PreferenceVote:
    """The image that a complete annotation prefers, as it is stored in the row's `review.votes`."""
    if annotation.bad_prompt or verdict(rule, annotation) == "unsure":
        return "unsure"
    winner, loser = annotation.winner.count("yes"), annotation.loser.count("yes")
    return "w" if winner > loser else "l" if loser > winner else "tie"


def truth(pair: ReviewPair) -> Annotation | None:
    """The correct answers about a pair whose truth and changed claims are known, else None."""
    rule = pair.rule
    if not (pair.gold and rule.changed and rule.kind == "perturbed"):
        return None
    loser: tuple[Answer, ...] = tuple("no" if claim in rule.changed else "yes" for claim in range(rule.claims))
    return Annotation(("yes",) * rule.claims, loser)


def _certain(answers: Sequence[Answer]) -> list[Answer]:
    """The answers, with "" instead of unsure."""
    return ["" if answer == "unsure" else answer for answer in answers]
