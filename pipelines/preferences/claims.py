"""The claims about the images of a pair, and what follows from their answers.

Each object and each relation of the prompt is one claim, in this order, about both images. Answers settle claim by
claim; the status of the pair and its tier are derived from the settled claims, and only from those that matter.
Imports nothing slow: the review page starts with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pipelines.preferences.row_values import PairKind, Tier

Answer = Literal["yes", "no", "unsure", ""]
"""Whether a claim holds. "": no answer, or not settled yet."""

ANSWERS: tuple[Answer, ...] = ("yes", "no", "unsure")

ClaimKind = Literal["objects", "relations", "changed claims"]
"""A claim that an object is there, that a relation holds, or one that the loser must violate, about the loser."""
CLAIM_KINDS: tuple[ClaimKind, ...] = get_args(ClaimKind)


@dataclass(frozen=True)
class ClaimRule:
    """What decides a pair: its claims, and those that its loser must violate."""

    kind: PairKind
    objects: int  # the first claims are about these objects
    relations: int  # the next claims are these relations
    changed: tuple[int, ...]  # claims that must fail for the loser; empty if the row does not name them
    n_perturb: int  # number of changed relations

    @property
    def claims(self) -> int:
        """Number of claims about each image. A prompt without known relations is one claim as a whole."""
        return self.objects + self.relations or 1

    def claim_kind(self, claim: int, about_loser: bool) -> ClaimKind:
        """The kind of a claim about one of the images."""
        if about_loser and claim in self.changed:
            return "changed claims"
        return "objects" if claim < self.objects else "relations"


@dataclass(frozen=True)
class Outcome:
    """What the settled claims say about a pair."""

    status: Literal["open", "accepted", "rejected"]
    tier: Tier | None = None  # of an accepted pair
    winner: tuple[int, ...] = ()  # claims about the winner that are open and can still change the outcome
    loser: tuple[int, ...] = ()  # the same about the loser


REJECTED = Outcome("rejected")


def objects_of(relations: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """The distinct objects of (subject, relation, object) triples, in the order in which they appear."""
    return tuple(dict.fromkeys(name for one in relations for name in (one[0], one[2])))


def rule_of(
    kind: PairKind, relations: Sequence[tuple[str, str, str]], changed: Iterable[str], n_perturb: int
) -> ClaimRule:
    """The rule of a pair. `changed` are the sentences of relations, or the names of objects, that its edits change."""
    objects = objects_of(relations)
    texts = [*objects, *map(" ".join, relations)]
    edited = list(dict.fromkeys(changed))
    named = bool(edited) and all(text in texts for text in edited)
    claims = tuple(sorted(texts.index(text) for text in edited)) if named else ()
    return ClaimRule(kind, len(objects), len(relations), claims, n_perturb)


def outcome(rule: ClaimRule, winner: Sequence[Answer], loser: Sequence[Answer]) -> Outcome:
    """The outcome of a pair whose claims are settled as given.

    All claims must hold for the winner. strict: the loser violates every changed claim and keeps the others. ordered:
    it violates at least one changed claim. A generated pair, whose images are two attempts at one prompt, is ordered if
    more claims hold for the winner. A claim that is settled as unsure neither holds nor is violated.
    """
    if rule.kind == "generated":
        return _by_count(winner, loser)
    if any(answer in ("no", "unsure") for answer in winner):
        return REJECTED
    of_loser = _of_loser(rule, loser)
    waiting = _open(winner)
    if waiting and of_loser.status == "accepted":
        return Outcome("open", winner=waiting)
    return Outcome("open", winner=waiting, loser=of_loser.loser) if waiting and of_loser != REJECTED else of_loser


def _of_loser(rule: ClaimRule, answers: Sequence[Answer]) -> Outcome:
    """The outcome if all claims hold for the winner."""
    if not rule.changed:
        return _of_unnamed(rule, answers)
    changed = {claim: answers[claim] for claim in rule.changed}
    kept = [answer for claim, answer in enumerate(answers) if claim not in changed]
    violated = "no" in changed.values()
    if not violated and "" not in changed.values():
        return REJECTED
    can_be_strict = all(one in ("no", "") for one in changed.values()) and all(one in ("yes", "") for one in kept)
    if can_be_strict:
        waiting = _open(answers)
        return Outcome("open", loser=waiting) if waiting else Outcome("accepted", "strict")
    if violated:
        return Outcome("accepted", "ordered")
    return Outcome("open", loser=tuple(claim for claim, answer in changed.items() if not answer))


def _of_unnamed(rule: ClaimRule, answers: Sequence[Answer]) -> Outcome:
    """As `_of_loser`, if the row does not name the changed claims: `n_perturb` of them must fail."""
    failed, waiting = answers.count("no"), _open(answers)
    if not failed and not waiting:
        return REJECTED
    can_be_strict = bool(rule.n_perturb) and "unsure" not in answers
    can_be_strict = can_be_strict and failed <= rule.n_perturb <= failed + len(waiting)
    if failed and not can_be_strict:
        return Outcome("accepted", "ordered")
    return Outcome("open", loser=waiting) if waiting else Outcome("accepted", "strict")


def _by_count(winner: Sequence[Answer], loser: Sequence[Answer]) -> Outcome:
    waiting = _open(winner), _open(loser)
    if winner.count("yes") > loser.count("yes") + len(waiting[1]):
        return Outcome("accepted", "ordered")
    if winner.count("yes") + len(waiting[0]) <= loser.count("yes"):
        return REJECTED
    return Outcome("open", winner=waiting[0], loser=waiting[1])


def _open(answers: Sequence[Answer]) -> tuple[int, ...]:
    return tuple(claim for claim, answer in enumerate(answers) if not answer)
