"""The annotators' decisions, as they are stored in a row's `review` column."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.preferences.claims import Answer
from pipelines.preferences.review.annotation import Annotation, vote
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.votes import Decision, Vote
from pipelines.preferences.roles.base import Review
from pipelines.preferences.row_values import PreferenceVote


def review_results(pairs: PairSet, votes: Sequence[Vote], decisions: Mapping[str, Decision]) -> dict[str, Review]:
    """Pair id -> review, for every pair of the dataset that this review has votes on and decides.

    A pair whose truth is known, and which measured annotators, is not in `decisions` and keeps the review of its row.
    """
    by_pair: dict[str, list[Vote]] = defaultdict(list)
    for one in votes:
        if one.pair_id in pairs and one.pair_id in decisions:
            by_pair[one.pair_id].append(one)
    results: dict[str, Review] = {}
    for pair_id, pair_votes in by_pair.items():
        pair, decision = pairs.pair(pair_id), decisions[pair_id]
        annotations = [one.annotation for one in pair_votes]
        preferences: tuple[PreferenceVote, ...] = tuple(
            vote(pair.rule, _completed(one, annotations)) for one in annotations
        )
        agreement = Counter(preferences).most_common(1)[0][1] / len(preferences)
        results[pair_id] = Review(decision.status, preferences, agreement, pair.gold, decision.tier)
    return results


def _completed(annotation: Annotation, annotations: Sequence[Annotation]) -> Annotation:
    """An annotation with the answers of the others where a claim was not asked."""

    def fill(side: str) -> tuple[Answer, ...]:
        columns = zip(getattr(annotation, side), *(getattr(one, side) for one in annotations), strict=True)
        return tuple(next((answer for answer in answers if answer), "unsure") for answers in columns)

    return replace(annotation, winner=fill("winner"), loser=fill("loser"))
