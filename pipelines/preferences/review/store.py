"""The queue and the votes of one review.

Votes are never deleted: an undone vote is marked as withdrawn. A unique index ensures that an annotator has at most one
vote on a pair. An annotator can vote only on a pair that the queue has put on their screen. A lease records this.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable

from pipelines.preferences.review.annotation import Annotation, Verdict, resolve
from pipelines.preferences.review.conditions import (
    DISPUTED,
    DISPUTED_AND_FREE,
    GOLD,
    PENDING,
    PENDING_AND_FREE,
    VALID_LEASE,
    VOTES,
)
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.votes import (
    AlreadyVotedError,
    NothingToUndoError,
    NotOpenError,
    Progress,
    QueueEntry,
    ReviewStage,
    Vote,
    VoteCounts,
)
from pipelines.preferences.row_values import ReviewStatus

_INSERT_PAIR = (
    "INSERT INTO pairs (pair_id, position, gold) VALUES (?, ?, ?) ON CONFLICT (pair_id) "
    "DO UPDATE SET position = excluded.position, gold = excluded.gold, listed = 1"
)
_INSERT_VOTE = (
    "INSERT INTO votes (vote_id, pair_id, annotator, stage, winner, loser, verdict, first_side, seconds, cast_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PACE_PAIRS = 20  # an annotator's pace is measured over this many pairs


class Store:
    """The queue, the leases and the votes."""

    def __init__(self, database: Database, annotators_per_pair: int, lease_seconds: float) -> None:
        self._db, self._annotators_per_pair, self._lease_seconds = database, annotators_per_pair, lease_seconds

    def fill(self, entries: Iterable[QueueEntry]) -> None:
        """Replaces the queue by these pairs, in this order. Votes on them are kept, and decided pairs stay decided."""
        with self._db.transaction():
            self._db.run("UPDATE pairs SET listed = 0")
            for position, entry in enumerate(entries):
                self._db.run(_INSERT_PAIR, entry.pair_id, position, entry.gold)
            for row in self._db.all(f"SELECT pair_id FROM pairs WHERE status = 'pending' AND {VOTES} > 0"):
                self._update_status(row["pair_id"])  # `annotators_per_pair` may be lower than before

    def lease(self, annotator: str, stage: ReviewStage, want_gold: bool) -> str | None:
        """Reserves the annotator's next pair and returns its id. A pair on the annotator's screen is returned again.

        Annotators get pairs that lack reviews, adjudicators get disputed pairs. Nobody gets a pair that they voted on.
        """
        with self._db.transaction():
            found = self._leased_pair(annotator, stage) or self._next_pair(annotator, stage, want_gold)
            if found:
                self._add_lease(found, annotator)
            return found

    def cast(self, vote: Vote, needs_lease: bool = True) -> None:
        """Saves a vote. When this returns, it is on disk. The same vote again changes nothing.

        If `needs_lease`, the pair must be on the annotator's screen. After the lease has ended, a vote is still saved
        if nobody else took the place. Raises AlreadyVotedError if the annotator has another vote on this pair, and
        NotOpenError if the pair is not on their screen or is decided.
        """
        answers = json.dumps(vote.annotation.winner), json.dumps(vote.annotation.loser)
        with self._db.transaction():
            known = self._db.all(
                "SELECT pair_id, stage, winner, loser, withdrawn FROM votes WHERE annotator = ? AND vote_id = ?",
                vote.annotator,
                vote.vote_id,
            )
            if known and tuple(known[0]) == (vote.pair_id, vote.stage, *answers, 0):
                return
            voted = "SELECT 1 FROM votes WHERE annotator = ? AND pair_id = ? AND NOT withdrawn"
            if known or self._db.all(voted, vote.annotator, vote.pair_id):
                raise AlreadyVotedError(f"{vote.annotator} has already voted on {vote.pair_id}")
            self._check_open(vote, needs_lease)
            self._db.run(
                _INSERT_VOTE,
                vote.vote_id,
                vote.pair_id,
                vote.annotator,
                vote.stage,
                *answers,
                vote.verdict,
                vote.first_side,
                vote.seconds,
                vote.cast_at,
            )
            self._db.run("DELETE FROM leases WHERE pair_id = ? AND annotator = ?", vote.pair_id, vote.annotator)
            self._update_status(vote.pair_id)

    def withdraw(self, annotator: str, stage: ReviewStage) -> Vote:
        """Withdraws the vote that the annotator cast last in this stage, reserves its pair again, and returns the vote.

        Raises NothingToUndoError if there is none, or if the pair was adjudicated since.
        """
        newest = (
            "SELECT * FROM votes WHERE annotator = ? AND stage = ? AND NOT withdrawn AND pair_id IN "
            "(SELECT pair_id FROM pairs WHERE listed) ORDER BY number DESC LIMIT 1"
        )
        with self._db.transaction():
            rows = self._db.all(newest, annotator, stage)
            if not rows:
                raise NothingToUndoError("There is no earlier pair to go back to.")
            vote = _vote(rows[0])
            if stage == "review" and any(other.stage == "adjudication" for other in self.votes_on(vote.pair_id)):
                raise NothingToUndoError("The last pair was adjudicated in the meantime and cannot be changed.")
            self._db.run("UPDATE votes SET withdrawn = 1 WHERE number = ?", rows[0]["number"])
            self._db.run("DELETE FROM leases WHERE annotator = ?", annotator)
            self._add_lease(vote.pair_id, annotator)
            self._update_status(vote.pair_id)
            return vote

    def votes(self) -> list[Vote]:
        """All votes that are not withdrawn, oldest first."""
        return [_vote(row) for row in self._db.all("SELECT * FROM votes WHERE NOT withdrawn ORDER BY number")]

    def votes_on(self, pair_id: str) -> list[Vote]:
        """The votes on one pair that are not withdrawn, oldest first."""
        query = "SELECT * FROM votes WHERE pair_id = ? AND NOT withdrawn ORDER BY number"
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
        condition = DISPUTED if stage == "adjudication" else PENDING
        waiting = self._db.one(f"SELECT count(*) AS n FROM pairs WHERE {condition}", annotator=annotator)["n"]
        dataset = self._db.one(
            "SELECT count(*) AS n, coalesce(sum(status IN ('accepted', 'rejected')), 0) AS decided "
            "FROM pairs WHERE listed AND NOT gold"
        )
        newest = "SELECT seconds FROM votes WHERE annotator = ? AND NOT withdrawn ORDER BY number DESC LIMIT ?"
        seconds = [row["seconds"] for row in self._db.all(newest, annotator, _PACE_PAIRS)]
        pace = 3600 * len(seconds) / sum(seconds) if any(seconds) else 0.0
        return Progress(self.counts(annotator).total, waiting, dataset["decided"], dataset["n"], pace)

    def _leased_pair(self, annotator: str, stage: ReviewStage) -> str | None:
        """The pair on the annotator's screen, if it still needs them."""
        needed = DISPUTED if stage == "adjudication" else f"(({GOLD}) OR ({PENDING}))"
        rows = self._select(
            "SELECT pair_id FROM pairs JOIN (SELECT pair_id AS leased, rowid AS number FROM leases "
            f"WHERE annotator = :annotator AND {VALID_LEASE}) ON leased = pair_id WHERE {needed} "
            "ORDER BY number DESC LIMIT 1",
            annotator,
        )
        return rows[0]["pair_id"] if rows else None

    def _add_lease(self, pair_id: str, annotator: str) -> None:
        until = time.time() + self._lease_seconds
        self._db.run("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", pair_id, annotator, until)

    def _next_pair(self, annotator: str, stage: ReviewStage, want_gold: bool) -> str | None:
        """The first pair that needs the annotator."""
        if stage == "adjudication":
            conditions = [DISPUTED_AND_FREE]
        else:
            conditions = [GOLD, PENDING_AND_FREE] if want_gold else [PENDING_AND_FREE]
        for condition in conditions:
            rows = self._select(f"SELECT pair_id FROM pairs WHERE {condition} ORDER BY position LIMIT 1", annotator)
            if rows:
                return rows[0]["pair_id"]
        return None

    def _check_open(self, vote: Vote, needs_lease: bool) -> None:
        """Raises NotOpenError unless the pair needs this vote and, if `needs_lease`, was given to the annotator."""
        of_pair = "pair_id = :pair_id AND "
        if needs_lease:
            leases = self._select(
                f"SELECT {VALID_LEASE} AS valid FROM leases WHERE {of_pair} annotator = :annotator",
                vote.annotator,
                vote.pair_id,
            )
            if not leases:
                raise NotOpenError(f"{vote.pair_id} is not on the screen of {vote.annotator}: load the next pair")
            free = not leases[0]["valid"]
        else:
            free = False
        if vote.stage == "adjudication":
            needed = DISPUTED_AND_FREE if free else DISPUTED
        else:
            needed = f"(({GOLD}) OR ({PENDING_AND_FREE if free else PENDING}))"
        if not self._select(f"SELECT 1 FROM pairs WHERE {of_pair} {needed}", vote.annotator, vote.pair_id):
            raise NotOpenError(f"{vote.pair_id} was decided in the meantime and needs no vote of {vote.annotator}")

    def _select(self, query: str, annotator: str, pair_id: str = "") -> list[sqlite3.Row]:
        """The rows of a query that names the parameters of the conditions above."""
        return self._db.all(
            query,
            annotator=annotator,
            pair_id=pair_id,
            now=time.time(),
            lease_seconds=self._lease_seconds,
            annotators_per_pair=self._annotators_per_pair,
        )

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
