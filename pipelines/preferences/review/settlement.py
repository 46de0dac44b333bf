"""What the votes on a pair settle, claim by claim, and what is asked next.

A claim is settled by the majority of the annotators, or, if they disagree or are unsure, by one adjudicator. A claim
that cannot change the outcome of the pair any more is not asked: as soon as it is settled that a claim does not hold
for the winner, for example, the pair is rejected and needs no further vote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.preferences.claims import Answer, ClaimRule, outcome
from pipelines.preferences.review.annotation import Annotation, Asked
from pipelines.preferences.row_values import ReviewStatus, Tier

NOTHING = Asked((), ())


@dataclass(frozen=True)
class Settlement:
    """The state of a pair."""

    status: ReviewStatus
    tier: Tier | None
    winner: tuple[Answer, ...]  # settled answers; "" if a claim is open
    loser: tuple[Answer, ...]
    asked: Asked  # of the next annotator, or of the adjudicator if the pair is disputed
    wanted: int  # number of further annotators


@dataclass(frozen=True)
class _Claim:
    """One claim about one image."""

    settled: Answer
    missing: int  # annotators who have not answered it; 0 and not settled: it is disputed


def settle(
    rule: ClaimRule, reviews: Sequence[Annotation], adjudication: Annotation | None, annotators_per_pair: int
) -> Settlement:
    """Settles a pair by the annotations of its annotators and of its adjudicator, if there is one."""
    majority = annotators_per_pair // 2 + 1

    def claims(side: str) -> list[_Claim]:
        columns = [getattr(one, side) for one in reviews]
        decided: Sequence[Answer] = getattr(adjudication, side) if adjudication else ("",) * rule.claims
        rows = ([column[claim] for column in columns] for claim in range(rule.claims))
        return [_settle_claim(row, decided[claim], majority, annotators_per_pair) for claim, row in enumerate(rows)]

    winner, loser = claims("winner"), claims("loser")
    settled = _answers(winner), _answers(loser)
    bad_prompts = sum(one.bad_prompt for one in reviews)
    if bad_prompts >= majority or (adjudication and adjudication.bad_prompt):
        return Settlement("rejected", None, *settled, NOTHING, 0)
    result = outcome(rule, *settled)
    if result.status != "open":
        return Settlement(result.status, result.tier, *settled, NOTHING, 0)
    open_claims = [(winner, claim) for claim in result.winner] + [(loser, claim) for claim in result.loser]
    wanted = max(side[claim].missing for side, claim in open_claims)
    asked = Asked(
        tuple(claim for claim in result.winner if bool(winner[claim].missing) == bool(wanted)),
        tuple(claim for claim in result.loser if bool(loser[claim].missing) == bool(wanted)),
    )
    return Settlement("pending" if wanted else "disputed", None, *settled, asked, wanted)


def _answers(claims: Sequence[_Claim]) -> tuple[Answer, ...]:
    return tuple(one.settled for one in claims)


def _settle_claim(answers: Sequence[Answer], decided: Answer, majority: int, annotators_per_pair: int) -> _Claim:
    """Settles one claim. `decided` is the adjudicator's answer; unsure then settles that nobody can tell."""
    given = [answer for answer in answers if answer]
    definite: tuple[Answer, ...] = ("yes", "no")
    for answer in definite:
        if given.count(answer) >= majority:
            return _Claim(answer, 0)
    return _Claim(decided, 0) if decided else _Claim("", max(0, annotators_per_pair - len(given)))
