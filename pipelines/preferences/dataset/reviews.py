"""The annotators' reviews of a run's pairs, as `publish` and `report` read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from actors.files import write_file
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.review.gold import choose_gold
from pipelines.preferences.review.overview import Overview, summarise
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.results import review_results
from pipelines.preferences.review.serve import open_database, open_store
from pipelines.preferences.review.votes import Vote
from pipelines.preferences.roles.base import Review


@dataclass(frozen=True)
class DatasetReviews:
    """The reviews of the pairs of one dataset."""

    by_pair: Mapping[str, Review]  # pair id -> review, for pairs with votes
    overview: Overview | None  # None if no review was started
    anonymous_overview: Overview | None  # the same with r1, r2, … instead of names
    votes: tuple[Vote, ...] = ()  # oldest first

    def of(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The review of a row: by annotators if there is one, else that of the build."""
        review = self.by_pair.get(row["pair_id"])
        return vars(review) if review else row["review"]


def read_reviews(settings: Settings) -> DatasetReviews:
    """Reads the reviews, and records in a private file which annotator is r1, r2, ….

    Raises UserError if the database is damaged or the run has no pairs.
    """
    paths = run_paths(settings)
    if not paths.review_database.exists():
        return DatasetReviews({}, None, None)
    pairs = PairSet(paths.preferences)
    rules = {pair.pair_id: pair.rule for pair in pairs.pairs()}
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        store.settle_older(rules)
        votes, decisions = store.votes(), store.decisions()
        truths = choose_gold(pairs, None, store).truths
    results = review_results(pairs, votes, decisions)
    overview = summarise(votes, decisions, rules, truths)
    aliases = {name: f"r{number}" for number, name in enumerate(_in_order_of_votes(votes), start=1)}
    if aliases:
        write_file(str(paths.review_aliases), json.dumps(aliases, indent=1).encode())
    return DatasetReviews(results, overview, _anonymous(overview, aliases), tuple(votes))


def _in_order_of_votes(votes: Sequence[Vote]) -> list[str]:
    return list(dict.fromkeys(vote.annotator for vote in votes))


def _anonymous(overview: Overview, aliases: Mapping[str, str]) -> Overview:
    """The overview without names and notes."""
    annotators = tuple(replace(one, name=aliases[one.name]) for one in overview.annotators)
    pairs = tuple(
        replace(one, names=(aliases[one.names[0]], aliases[one.names[1]])) for one in overview.annotator_pairs
    )
    return replace(overview, annotators=annotators, annotator_pairs=pairs, notes=())
