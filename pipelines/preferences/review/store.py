"""Votes, and who has which pair on the screen.

Votes are never deleted: an undone one is marked. That a reviewer votes once on a pair is a unique index, not a habit
of the callers.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines.preferences.review.annotation import Annotation, resolve
from pipelines.preferences.review.database import Database

REVIEW, ADJUDICATION = "review", "adjudication"

_UNSEEN = "NOT EXISTS (SELECT 1 FROM votes WHERE votes.pair_id = pairs.pair_id AND reviewer = :who AND NOT withdrawn)"
_LEASES = "(SELECT count(*) FROM leases WHERE leases.pair_id = pairs.pair_id)"
_VOTES = "(SELECT count(*) FROM votes WHERE votes.pair_id = pairs.pair_id AND NOT withdrawn)"
_GOLD = f"listed AND gold AND {_UNSEEN}"
_PENDING = f"listed AND NOT gold AND status = 'pending' AND {_UNSEEN}"
_DISPUTED = f"listed AND NOT gold AND status = 'disputed' AND {_UNSEEN}"


class AlreadyVotedError(Exception):
    """The reviewer's vote on this pair was saved before, from another window."""


class NotDisputedError(Exception):
    """An adjudicator's vote came for a pair that others have decided since."""


class NothingToUndoError(Exception):
    """The reviewer has no vote that can be withdrawn. The text says why."""


@dataclass(frozen=True)
class Vote:
    """One reviewer's answers about one pair."""

    vote_id: str  # made by the browser, so that sending a vote again does not count it twice
    pair_id: str
    reviewer: str
    stage: str  # REVIEW | ADJUDICATION
    annotation: Annotation
    verdict: str
    first_side: str  # the picture that was shown first: w | l
    seconds: float  # that the pair was on the screen
    cast_at: float  # seconds since 1970

    @property
    def as_shown(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The answers about the first and the second picture."""
        winner, loser = self.annotation.winner, self.annotation.loser
        return (winner, loser) if self.first_side == "w" else (loser, winner)


@dataclass(frozen=True)
class Entry:
    """A pair's place in the queue."""

    pair_id: str
    gold: bool


@dataclass(frozen=True)
class Progress:
    """How far a reviewer, and the whole set, has come."""

    mine: int  # pairs the reviewer has judged
    left: int  # pairs that wait for the reviewer
    settled: int  # pairs of the set that are accepted or rejected
    pairs: int  # pairs of the set
    per_hour: float  # the reviewer's own pace over the last 20 pairs; 0 before the first


class Store:
    """The queue and the votes of one review."""

    def __init__(self, database: Database, per_pair: int, lease_seconds: float) -> None:
        self._db, self._per_pair, self._lease_seconds = database, per_pair, lease_seconds

    def fill(self, entries: Iterable[Entry]) -> None:
        """Makes these pairs, in this order, the queue. Pairs that were in it before keep their votes."""
        with self._db.transaction():
            self._db.run("UPDATE pairs SET listed = 0")
            for position, entry in enumerate(entries):
                self._db.run(
                    "INSERT INTO pairs (pair_id, position, gold) VALUES (?, ?, ?) ON CONFLICT (pair_id) "
                    "DO UPDATE SET position = excluded.position, gold = excluded.gold, listed = 1",
                    entry.pair_id, position, entry.gold,
                )  # fmt: skip

    def lease(self, reviewer: str, stage: str, want_gold: bool) -> str | None:
        """The reviewer's next pair, kept for them for a while; the one they have on the screen comes again.

        Reviewers get pairs that still lack somebody, adjudicators disputed ones; never one they voted on.
        """
        with self._db.transaction():
            self._db.run("DELETE FROM leases WHERE until < ?", time.time())
            found = self._on_screen(reviewer) or self._waiting(reviewer, stage, want_gold)
            if found:
                self._put_on_screen(found, reviewer)
            return found

    def cast(self, vote: Vote) -> None:
        """Saves a vote. Once this returns it is on disk; the same vote_id again changes nothing.

        Raises AlreadyVotedError if another vote of this reviewer on this pair stands, NotDisputedError if there is
        nothing to adjudicate.
        """
        values = (
            vote.vote_id, vote.pair_id, vote.reviewer, vote.stage, json.dumps(vote.annotation.winner),
            json.dumps(vote.annotation.loser), vote.verdict, vote.first_side, vote.seconds, vote.cast_at,
        )  # fmt: skip
        with self._db.transaction():
            if self._db.all("SELECT 1 FROM votes WHERE vote_id = ?", vote.vote_id):
                return
            if vote.stage == ADJUDICATION and self.status(vote.pair_id) != "disputed":
                raise NotDisputedError(f"{vote.pair_id} is not disputed any more")
            try:
                self._db.run(f"INSERT INTO votes VALUES ({', '.join('?' * len(values))}, 0)", *values)
            except sqlite3.IntegrityError as error:
                raise AlreadyVotedError(f"{vote.reviewer} has already voted on {vote.pair_id}") from error
            self._db.run("DELETE FROM leases WHERE pair_id = ? AND reviewer = ?", vote.pair_id, vote.reviewer)
            self._settle(vote.pair_id)

    def withdraw(self, reviewer: str) -> Vote:
        """Takes back the reviewer's newest vote, puts the pair on their screen again, and returns what it said.

        Raises NothingToUndoError if there is none, or if it was adjudicated since.
        """
        with self._db.transaction():
            newest = (
                "SELECT * FROM votes WHERE reviewer = ? AND NOT withdrawn ORDER BY cast_at DESC, rowid DESC LIMIT 1"
            )
            rows = self._db.all(newest, reviewer)
            if not rows:
                raise NothingToUndoError("There is no earlier pair to go back to.")
            vote = _vote(rows[0])
            if vote.stage == REVIEW and any(other.stage == ADJUDICATION for other in self.votes_on(vote.pair_id)):
                raise NothingToUndoError("The last pair has been adjudicated since and cannot be changed.")
            self._db.run("UPDATE votes SET withdrawn = 1 WHERE vote_id = ?", vote.vote_id)
            self._db.run("DELETE FROM leases WHERE reviewer = ?", reviewer)
            self._put_on_screen(vote.pair_id, reviewer)
            self._settle(vote.pair_id)
            return vote

    def votes(self) -> list[Vote]:
        """All votes that stand, oldest first."""
        return [_vote(row) for row in self._db.all("SELECT * FROM votes WHERE NOT withdrawn ORDER BY cast_at, rowid")]

    def votes_on(self, pair_id: str) -> list[Vote]:
        """The votes that stand on one pair, oldest first."""
        query = "SELECT * FROM votes WHERE pair_id = ? AND NOT withdrawn ORDER BY cast_at, rowid"
        return [_vote(row) for row in self._db.all(query, pair_id)]

    def status(self, pair_id: str) -> str:
        """pending | accepted | rejected | disputed."""
        return self._db.one("SELECT status FROM pairs WHERE pair_id = ?", pair_id)["status"]

    def statuses(self) -> dict[str, str]:
        """Of all pairs in the queue that are no gold ones."""
        rows = self._db.all("SELECT pair_id, status FROM pairs WHERE listed AND NOT gold")
        return {row["pair_id"]: row["status"] for row in rows}

    def counts(self, reviewer: str) -> tuple[int, int]:
        """Number of the reviewer's votes: on all pairs, and on gold ones."""
        row = self._db.one(
            "SELECT count(*) AS n, coalesce(sum(gold), 0) AS gold FROM votes JOIN pairs USING (pair_id) "
            "WHERE reviewer = ? AND NOT withdrawn",
            reviewer,
        )
        return row["n"], row["gold"]

    def progress(self, reviewer: str, stage: str) -> Progress:
        """See Progress."""
        waiting = _DISPUTED if stage == ADJUDICATION else _PENDING
        left = self._db.one(f"SELECT count(*) AS n FROM pairs WHERE {waiting}", who=reviewer)["n"]
        total = self._db.one(
            "SELECT count(*) AS n, coalesce(sum(status IN ('accepted', 'rejected')), 0) AS settled "
            "FROM pairs WHERE listed AND NOT gold"
        )
        last = "SELECT seconds FROM votes WHERE reviewer = ? AND NOT withdrawn ORDER BY cast_at DESC LIMIT 20"
        seconds = [row["seconds"] for row in self._db.all(last, reviewer)]
        pace = 3600 * len(seconds) / sum(seconds) if any(seconds) else 0.0
        return Progress(self.counts(reviewer)[0], left, total["settled"], total["n"], pace)

    def _on_screen(self, reviewer: str) -> str | None:
        query = "SELECT pair_id FROM leases JOIN pairs USING (pair_id) WHERE reviewer = ? AND listed LIMIT 1"
        rows = self._db.all(query, reviewer)
        return rows[0]["pair_id"] if rows else None

    def _put_on_screen(self, pair_id: str, reviewer: str) -> None:
        until = time.time() + self._lease_seconds
        self._db.run("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", pair_id, reviewer, until)

    def _waiting(self, reviewer: str, stage: str, want_gold: bool) -> str | None:
        """The first pair that has room for the reviewer, counting those who look at it just now."""
        if stage == ADJUDICATION:
            wanted = [f"{_DISPUTED} AND {_LEASES} = 0"]
        else:
            wanted = [_GOLD] if want_gold else []
            wanted.append(f"{_PENDING} AND {_LEASES} + {_VOTES} < :per_pair")
        for condition in wanted:
            rows = self._db.all(
                f"SELECT pair_id FROM pairs WHERE {condition} ORDER BY position LIMIT 1",
                who=reviewer, per_pair=self._per_pair,
            )  # fmt: skip
            if rows:
                return rows[0]["pair_id"]
        return None

    def _settle(self, pair_id: str) -> None:
        standing = self.votes_on(pair_id)
        verdicts = [vote.verdict for vote in standing if vote.stage == REVIEW]
        decided = next((vote.verdict for vote in standing if vote.stage == ADJUDICATION), None)
        status = resolve(verdicts, decided, self._per_pair)
        self._db.run("UPDATE pairs SET status = ? WHERE pair_id = ?", status, pair_id)


def _vote(row: sqlite3.Row) -> Vote:
    ballot = Annotation(tuple(json.loads(row["winner"])), tuple(json.loads(row["loser"])))
    return Vote(
        row["vote_id"], row["pair_id"], row["reviewer"], row["stage"], ballot, row["verdict"], row["first_side"],
        row["seconds"], row["cast_at"],
    )  # fmt: skip
