"""Gold pairs: pairs with known answers, which measure annotators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf import UserError
from pipelines.preferences.review.annotation import Annotation, truth
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.settlement import settle
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import Vote


@dataclass(frozen=True)
class GoldPairs:
    """The pairs of which correct answers are known."""

    truths: Mapping[str, Annotation]  # pair id -> correct answers; "" for a claim that is not known


@dataclass(frozen=True)
class Qualification:
    """The qualification round of one annotator."""

    pairs: int  # of the round; 0: there is none
    done: int
    right: float  # fraction of the answers about these pairs that are correct
    required: float  # fraction that passes

    @property
    def running(self) -> bool:
        """Whether gold pairs of the round are left."""
        return self.done < self.pairs

    @property
    def failed(self) -> bool:
        """Whether too many answers were wrong."""
        return not self.running and self.right < self.required


def choose_gold(pairs: PairSet, other: PairSet | None, store: Store) -> GoldPairs:
    """All pairs that can be gold pairs.

    These are the pairs of `other`, if given, else the pairs of the dataset whose truth is known. If there are none, as
    in a set of photographs, they are the accepted pairs on which an adjudicator has decided. Raises UserError if an id
    is in both datasets.
    """
    known = {pair.pair_id: answers for pair in (other or pairs).pairs() if (answers := truth(pair))}
    if other and (shared := known.keys() & set(pairs.ids)):
        raise UserError(
            f"the pairs of review.gold_pairs must have other ids than the dataset under review, got {min(shared)} "
            "in both: build them with other ids, or unset review.gold_pairs"
        )
    return GoldPairs(known or _adjudicated(pairs, store))


def right_share(votes: Sequence[Vote], truths: Mapping[str, Annotation]) -> float | None:
    """The fraction of the answers on gold pairs that are correct; None if there are none."""
    flags = [
        answer == right
        for vote in votes
        if vote.pair_id in truths
        for answer, right in zip(vote.annotation.answers, truths[vote.pair_id].answers, strict=True)
        if answer and right
    ]
    return sum(flags) / len(flags) if flags else None


def _adjudicated(pairs: PairSet, store: Store) -> dict[str, Annotation]:
    """The settled answers of accepted pairs that an adjudicator decided."""
    truths: dict[str, Annotation] = {}
    for pair_id, decision in store.decisions().items():
        if decision.status == "accepted" and decision.adjudicated and pair_id in pairs:
            votes = store.votes_on(pair_id)
            adjudication = next(vote.annotation for vote in votes if vote.stage == "adjudication")
            reviews = [vote.annotation for vote in votes if vote.stage == "review"]
            state = settle(pairs.pair(pair_id).rule, reviews, adjudication, max(1, len(reviews)))
            truths[pair_id] = Annotation(state.winner, state.loser)
    return truths
