"""The queue and the votes of one review.

Votes are never deleted: an undone vote is marked as withdrawn. A unique index ensures that an annotator has at most one
vote on a pair.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable

from pipelines.preferences.review.annotation import Annotation, Verdict, resolve
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.votes import (
    AlreadyVotedError,
    NotDisputedError,
    NothingToUndoError,
    Progress,
    QueueEntry,
    ReviewStage,
    Vote,
    VoteCounts,
)
from pipelines.preferences.row_values import ReviewStatus

_NOT_VOTED = (
    "NOT EXISTS (SELECT 1 FROM votes WHERE votes.pair_id = pairs.pair_id AND annotator = :annotator AND NOT withdrawn)"
)
_LEASES = "(SELECT count(*) FROM leases WHERE leases.pair_id = pairs.pair_id)"
_VOTES = "(SELECT count(*) FROM votes WHERE votes.pair_id = pairs.pair_id AND NOT withdrawn)"
_GOLD = f"listed AND gold AND {_NOT_VOTED}"
_PENDING = f"listed AND NOT gold AND status = 'pending' AND {_NOT_VOTED}"
_DISPUTED = f"listed AND NOT gold AND status = 'disputed' AND {_NOT_VOTED}"

_INSERT_PAIR = (
    "INSERT INTO pairs (pair_id, position, gold) VALUES (?, ?, ?) ON CONFLICT (pair_id) "
    "DO UPDATE SET position = excluded.position, gold = excluded.gold, listed = 1"
)
_PACE_PAIRS = 20  # an annotator's pace is measured over this many pairs


class Store:
    """The queue, the leases and the votes."""

    def __init__(self, database: Database, annotators_per_pair: int, lease_seconds: float) -> None:
        self._db, self._annotators_per_pair, self._lease_seconds = database, annotators_per_pair, lease_seconds

    def fill(self, entries: Iterable[QueueEntry]) -> None:
        """Replaces the queue by these pairs, in this order. Votes on them are kept."""
        with self._db.transaction():
            self._db.run("UPDATE pairs SET listed = 0")
            for position, entry in enumerate(entries):
                self._db.run(_INSERT_PAIR, entry.pair_id, position, entry.gold)

    def lease(self, annotator: str, stage: ReviewStage, want_gold: bool) -> str | None:
        """Reserves the annotator's next pair and returns its id. A pair on the annotator's screen is returned again.

        Annotators get pairs that lack reviews, adjudicators get disputed pairs. Nobody gets a pair that they voted on.
        """
        with self._db.transaction():
            self._db.run("DELETE FROM leases WHERE until < ?", time.time())
            found = self._leased_pair(annotator) or self._next_pair(annotator, stage, want_gold)
            if found:
                self._add_lease(found, annotator)
            return found

    def cast(self, vote: Vote) -> None:
        """Saves a vote. When this returns, it is on disk. A repeated vote_id changes nothing.

        Raises AlreadyVotedError if the annotator has another vote on this pair, NotDisputedError if there is nothing to
        adjudicate.
        """
        values = (
            vote.vote_id,
            vote.pair_id,
            vote.annotator,
            vote.stage,
            json.dumps(vote.annotation.winner),
            json.dumps(vote.annotation.loser),
            vote.verdict,
            vote.first_side,
            vote.seconds,
            vote.cast_at,
        )
        with self._db.transaction():
            if self._db.all("SELECT 1 FROM votes WHERE vote_id = ?", vote.vote_id):
                return
            if vote.stage == "adjudication" and self.status(vote.pair_id) != "disputed":
                raise NotDisputedError(f"{vote.pair_id} is no longer disputed")
            try:
                self._db.run(f"INSERT INTO votes VALUES ({', '.join('?' * len(values))}, 0)", *values)
            except sqlite3.IntegrityError as error:
                raise AlreadyVotedError(f"{vote.annotator} has already voted on {vote.pair_id}") from error
            self._db.run("DELETE FROM leases WHERE pair_id = ? AND annotator = ?", vote.pair_id, vote.annotator)
            self._update_status(vote.pair_id)

    def withdraw(self, annotator: str) -> Vote:
        """Withdraws the annotator's newest vote, reserves its pair again, and returns the vote.

        Raises NothingToUndoError if there is none, or if the pair was adjudicated since.
        """
        newest = "SELECT * FROM votes WHERE annotator = ? AND NOT withdrawn ORDER BY cast_at DESC, rowid DESC LIMIT 1"
        with self._db.transaction():
            rows = self._db.all(newest, annotator)
            if not rows:
                raise NothingToUndoError("There is no earlier pair to go back to.")
            vote = _vote(rows[0])
            if vote.stage == "review" and any(other.stage == "adjudication" for other in self.votes_on(vote.pair_id)):
                raise NothingToUndoError("The last pair was adjudicated in the meantime and cannot be changed.")
            self._db.run("UPDATE votes SET withdrawn = 1 WHERE vote_id = ?", vote.vote_id)
            self._db.run("DELETE FROM leases WHERE annotator = ?", annotator)
            self._add_lease(vote.pair_id, annotator)
            self._update_status(vote.pair_id)
            return vote

    def votes(self) -> list[Vote]:
        """All votes that are not withdrawn, oldest first."""
        return [_vote(row) for row in self._db.all("SELECT * FROM votes WHERE NOT withdrawn ORDER BY cast_at, rowid")]

    def votes_on(self, pair_id: str) -> list[Vote]:
        """The votes on one pair that are not withdrawn, oldest first."""
        query = "SELECT * FROM votes WHERE pair_id = ? AND NOT withdrawn ORDER BY cast_at, rowid"
        return [_vote(row) for row in self._db.all(query, pair_id)]

    def status(self, pair_id: str) -> ReviewStatus:
        """The status of one pair."""
        return self._db.one("SELECT status FROM pairs WHERE pair_id = ?", pair_id)["status"]

    def statuses(self) -> dict[str, ReviewStatus]:
        """Pair id -> status, for all pairs of the queue that are not gold pairs."""
        rows = self._db.all("SELECT pair_id, status FROM pairs WHERE listed AND NOT gold")
        return {row["pair_id"]: row["status"] for row in rows}

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
        condition = _DISPUTED if stage == "adjudication" else _PENDING
        waiting = self._db.one(f"SELECT count(*) AS n FROM pairs WHERE {condition}", annotator=annotator)["n"]
        dataset = self._db.one(
            "SELECT count(*) AS n, coalesce(sum(status IN ('accepted', 'rejected')), 0) AS decided "
            "FROM pairs WHERE listed AND NOT gold"
        )
        newest = "SELECT seconds FROM votes WHERE annotator = ? AND NOT withdrawn ORDER BY cast_at DESC LIMIT ?"
        seconds = [row["seconds"] for row in self._db.all(newest, annotator, _PACE_PAIRS)]
        pace = 3600 * len(seconds) / sum(seconds) if any(seconds) else 0.0
        return Progress(self.counts(annotator).total, waiting, dataset["decided"], dataset["n"], pace)

    def _leased_pair(self, annotator: str) -> str | None:
        query = "SELECT pair_id FROM leases JOIN pairs USING (pair_id) WHERE annotator = ? AND listed LIMIT 1"
        rows = self._db.all(query, annotator)
        return rows[0]["pair_id"] if rows else None

    def _add_lease(self, pair_id: str, annotator: str) -> None:
        until = time.time() + self._lease_seconds
        self._db.run("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", pair_id, annotator, until)

    def _next_pair(self, annotator: str, stage: ReviewStage, want_gold: bool) -> str | None:
        """The first pair that needs the annotator. Pairs on other screens count as if they had those votes already."""
        if stage == "adjudication":
            conditions = [f"{_DISPUTED} AND {_LEASES} = 0"]
        else:
            conditions = [_GOLD] if want_gold else []
            conditions.append(f"{_PENDING} AND {_LEASES} + {_VOTES} < :annotators_per_pair")
        for condition in conditions:
            query = f"SELECT pair_id FROM pairs WHERE {condition} ORDER BY position LIMIT 1"
            rows = self._db.all(query, annotator=annotator, annotators_per_pair=self._annotators_per_pair)
            if rows:
                return rows[0]["pair_id"]
        return None

    def _update_status(self, pair_id: str) -> None:
        votes = self.votes_on(pair_id)
        verdicts: list[Verdict] = [vote.verdict for vote in votes if vote.stage == "review"]
        adjudications: list[Verdict] = [vote.verdict for vote in votes if vote.stage == "adjudication"]
        status = resolve(verdicts, adjudications[0] if adjudications else None, self._annotators_per_pair)
        self._db.run("UPDATE pairs SET status = ? WHERE pair_id = ?", status, pair_id)


def _vote(row: sqlite3.Row) -> Vote:
    return Vote(
        vote_id=row["vote_id"],
        pair_id=row["pair_id"],
        annotator=row["annotator"],
        stage=row["stage"],
        annotation=Annotation(tuple(json.loads(row["winner"])), tuple(json.loads(row["loser"]))),
        verdict=row["verdict"],
        first_side=row["first_side"],
        seconds=row["seconds"],
        cast_at=row["cast_at"],
    )
