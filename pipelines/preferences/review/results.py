"""What people decided, as it goes into a row's `review` column."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pipelines.preferences.review.annotation import vote
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.store import Vote
from pipelines.preferences.roles.base import Review


def reviewed(pairs: PairSet, votes: Sequence[Vote], statuses: Mapping[str, str]) -> dict[str, Review]:
    """Pair -> its review, for every pair of the set that people have voted on.

    `statuses` are those of the queue: accepted, rejected, disputed or pending. A pair that was shown as a gold one is
    in no queue: its truth is known and its status stays as it is.
    """
    by_pair: dict[str, list[Vote]] = defaultdict(list)
    for one in votes:
        if one.pair_id in pairs:
            by_pair[one.pair_id].append(one)
    found = {}
    for pair_id, given in by_pair.items():
        pair = pairs.pair(pair_id)
        spoken = tuple(vote(pair, one.annotation) for one in given)
        agreement = Counter(spoken).most_common(1)[0][1] / len(spoken)
        status = statuses.get(pair_id, pair.status)
        found[pair_id] = Review(status, spoken, agreement, pair.gold)
    return found
