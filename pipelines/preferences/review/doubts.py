"""What the check of images left open: the claims that people look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.preferences.claims import ClaimRule


@dataclass(frozen=True)
class Doubts:
    """The claims about each image whose answer by the check is not what the tier strict needs."""

    winner: frozenset[int] = frozenset()
    loser: frozenset[int] = frozenset()

    @classmethod
    def of(cls, rule: ClaimRule, check: Mapping[str, Any] | None) -> Doubts:
        """`check` is the row's `image_check`; a row that was not checked has no doubts."""
        if not check:
            return cls()
        needed_of_loser = ["no" if claim in rule.changed else "yes" for claim in range(rule.claims)]
        return cls(_other(check["winner"] or (), ["yes"] * rule.claims), _other(check["loser"] or (), needed_of_loser))

    @property
    def count(self) -> int:
        """The number of doubts about both images."""
        return len(self.winner) + len(self.loser)

    def first(self, rule: ClaimRule, asked: Sequence[int]) -> tuple[int, ...]:
        """The claims that are asked, in the order of the page: objects, then relations, doubtful ones first in both.

        The order is the same for both images, so that it does not tell which one is the winner.
        """
        doubtful = self.winner | self.loser
        return tuple(sorted(asked, key=lambda claim: (claim >= rule.objects, claim not in doubtful, claim)))


def _other(answers: Sequence[str], needed: Sequence[str]) -> frozenset[int]:
    """The claims whose answer is not the one that is needed. Answers to other claims than the rule's say nothing."""
    if len(answers) != len(needed):
        return frozenset()
    return frozenset(claim for claim, pair in enumerate(zip(answers, needed, strict=True)) if pair[0] != pair[1])
