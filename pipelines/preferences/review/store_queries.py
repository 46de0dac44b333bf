"""What can be read from a review's database."""

from __future__ import annotations

from pipelines.preferences.review.annotation import Asked
from pipelines.preferences.review.conditions import DISPUTED, PENDING
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.stored_values import load_asked, load_vote
from pipelines.preferences.review.votes import Decision, Progress, ReviewStage, Vote, VoteCounts

_PACE_PAIRS = 20  # an annotator's pace is measured over this many pairs


class StoreQueries:
    """The votes and the state of the pairs."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def votes(self) -> list[Vote]:
        """All votes that are not withdrawn, oldest first."""
        return [load_vote(row) for row in self._db.all("SELECT * FROM votes WHERE NOT withdrawn ORDER BY number")]

    def votes_on(self, pair_id: str) -> list[Vote]:
        """The votes on one pair that are not withdrawn, oldest first."""
        query = "SELECT * FROM votes WHERE pair_id = ? AND NOT withdrawn ORDER BY number"
        return [load_vote(row) for row in self._db.all(query, pair_id)]

    def gold_votes(self, annotator: str) -> list[Vote]:
        """The annotator's votes on gold pairs, oldest first."""
        query = (
            "SELECT votes.* FROM votes JOIN pairs USING (pair_id) WHERE annotator = ? AND gold AND NOT withdrawn "
            "AND (stage = 'gold' OR (stage = 'review' AND status = 'pending')) ORDER BY number"
        )
        return [load_vote(row) for row in self._db.all(query, annotator)]

    def asked(self, pair_id: str) -> Asked:
        """The claims of one pair that are asked next."""
        return load_asked(self._db.one("SELECT asked FROM pairs WHERE pair_id = ?", pair_id)["asked"])

    def waiting(self) -> list[str]:
        """The ids of the pairs that lack votes of annotators, in the order of the queue."""
        query = "SELECT pair_id FROM pairs WHERE listed AND NOT gold AND status = 'pending' ORDER BY position"
        return [row["pair_id"] for row in self._db.all(query)]

    def decisions(self) -> dict[str, Decision]:
        """Pair id -> decision, for all pairs of the queue. A pair whose truth is known is not decided here."""
        rows = self._db.all(
            "SELECT pair_id, status, tier, EXISTS (SELECT 1 FROM votes WHERE votes.pair_id = pairs.pair_id AND NOT "
            "withdrawn AND stage = 'adjudication') AS adjudicated FROM pairs "
            "WHERE listed AND (NOT gold OR status IN ('accepted', 'rejected'))"
        )
        return {row["pair_id"]: Decision(row["status"], row["tier"], bool(row["adjudicated"])) for row in rows}

    def counts(self, annotator: str) -> VoteCounts:
        """The numbers of the annotator's votes."""
        row = self._db.one(
            "SELECT count(*) AS n, coalesce(sum(gold), 0) AS gold FROM votes JOIN pairs USING (pair_id) "
            "WHERE annotator = ? AND NOT withdrawn",
            annotator,
        )
        return VoteCounts(row["n"], row["gold"])

    def progress(self, annotator: str, stage: ReviewStage) -> Progress:
        """The progress of an annotator and of the dataset."""
        condition = DISPUTED if stage == "adjudication" else PENDING
        waiting = self._db.one(f"SELECT count(*) AS n FROM pairs WHERE {condition}", annotator=annotator)["n"]
        dataset = self._db.one(
            "SELECT count(*) AS n, coalesce(sum(status IN ('accepted', 'rejected')), 0) AS decided "
            "FROM pairs WHERE listed AND (NOT gold OR status IN ('accepted', 'rejected'))"
        )
        newest = "SELECT seconds FROM votes WHERE annotator = ? AND NOT withdrawn ORDER BY number DESC LIMIT ?"
        seconds = [row["seconds"] for row in self._db.all(newest, annotator, _PACE_PAIRS)]
        pace = 3600 * len(seconds) / sum(seconds) if any(seconds) else 0.0
        return Progress(self.counts(annotator).total, waiting, dataset["decided"], dataset["n"], pace)
