"""The annotators' decisions, as they are stored in a row's `review` column."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pipelines.preferences.review.annotation import vote
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.votes import Vote
from pipelines.preferences.roles.base import Review
from pipelines.preferences.row_values import PreferenceVote, ReviewStatus


def review_results(pairs: PairSet, votes: Sequence[Vote], statuses: Mapping[str, ReviewStatus]) -> dict[str, Review]:
    """Pair id -> review, for every pair of the dataset that has votes.

    `statuses` are those of the queue. A pair that was shown as a gold pair is not in it: its truth is known, so it
    keeps the status of its row.
    """
    by_pair: dict[str, list[Vote]] = defaultdict(list)
    for one in votes:
        if one.pair_id in pairs:
            by_pair[one.pair_id].append(one)
    results: dict[str, Review] = {}
    for pair_id, pair_votes in by_pair.items():
        pair = pairs.pair(pair_id)
        preferences: tuple[PreferenceVote, ...] = tuple(vote(pair, one.annotation) for one in pair_votes)
        agreement = Counter(preferences).most_common(1)[0][1] / len(preferences)
        results[pair_id] = Review(statuses.get(pair_id, pair.status), preferences, agreement, pair.gold)
    return results
