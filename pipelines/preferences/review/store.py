"""The queue and the votes of one review.

Votes are never deleted: an undone vote is marked as withdrawn. A unique index ensures that an annotator has at most one
vote on a pair. An annotator can vote only on a pair that the queue has put on their screen. A lease records this.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence

from pipelines.preferences.claims import ClaimRule
from pipelines.preferences.review.annotation import Asked
from pipelines.preferences.review.conditions import (
    DISPUTED,
    DISPUTED_AND_FREE,
    GOLD,
    PENDING,
    PENDING_AND_FREE,
    VALID_LEASE,
)
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.settlement import settle
from pipelines.preferences.review.store_queries import StoreQueries
from pipelines.preferences.review.stored_values import (
    dump_asked,
    dump_rule,
    load_rule,
    load_vote,
    translated,
)
from pipelines.preferences.review.votes import (
    AlreadyVotedError,
    GoldWish,
    NothingToUndoError,
    NotOpenError,
    QueueEntry,
    ReviewStage,
    Vote,
    VoteStage,
)

_INSERT_PAIR = (
    "INSERT INTO pairs (pair_id, position, gold, rule, asked, wanted) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (pair_id) DO UPDATE SET position = excluded.position, gold = excluded.gold, rule = excluded.rule, "
    "listed = 1"
)
_INSERT_VOTE = (
    "INSERT INTO votes (vote_id, pair_id, annotator, stage, winner, loser, verdict, first_side, seconds, cast_at, "
    "bad_prompt, note) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_VOTED = "EXISTS (SELECT 1 FROM votes WHERE votes.pair_id = pairs.pair_id)"


class Store(StoreQueries):
    """The queue, the leases and the votes."""

    def __init__(self, database: Database, annotators_per_pair: int, lease_seconds: float) -> None:
        super().__init__(database)
        self._annotators_per_pair, self._lease_seconds = annotators_per_pair, lease_seconds

    def fill(self, entries: Iterable[QueueEntry]) -> None:
        """Replaces the queue by these pairs, in this order. Votes on them are kept, and decided pairs stay decided.

        Pairs of a file of an older version are settled anew, by their votes.
        """
        with self._db.transaction():
            older = self._ids(f"SELECT pair_id FROM pairs WHERE rule = '' AND {_VOTED}")
            self._db.run("UPDATE pairs SET listed = 0")
            for position, entry in enumerate(entries):
                rule, asked = dump_rule(entry.rule), dump_asked(Asked.everything(entry.rule.claims))
                wanted = self._annotators_per_pair
                self._db.run(_INSERT_PAIR, entry.pair_id, position, entry.gold, rule, asked, wanted)
            self._settle_older(older)
            # `annotators_per_pair` may be another one than before
            for pair_id in self._ids(
                f"SELECT pair_id FROM pairs WHERE listed AND status IN ('pending', 'disputed') AND {_VOTED}"
            ):
                self._update_status(pair_id)
            fresh = f"UPDATE pairs SET wanted = ? WHERE status = 'pending' AND NOT {_VOTED}"
            self._db.run(fresh, self._annotators_per_pair)

    def settle_older(self, rules: Mapping[str, ClaimRule]) -> None:
        """Settles the pairs of a file of an older version anew, by their votes. `rules`: pair id -> rule."""
        with self._db.transaction():
            older = self._ids(f"SELECT pair_id FROM pairs WHERE rule = '' AND {_VOTED}")
            for pair_id in older & rules.keys():
                self._db.run("UPDATE pairs SET rule = ? WHERE pair_id = ?", dump_rule(rules[pair_id]), pair_id)
            self._settle_older(older)

    def lease(self, annotator: str, stage: ReviewStage, want_gold: GoldWish = "no") -> str | None:
        """Reserves the annotator's next pair and returns its id. A pair on the annotator's screen is returned again.

        Annotators get pairs that lack reviews, adjudicators get disputed pairs. Nobody gets a pair that they voted on.
        """
        with self._db.transaction():
            found = self._leased_pair(annotator, stage) or self._next_pair(annotator, stage, want_gold)
            if found:
                self._add_lease(found, annotator)
            return found

    def lease_ahead(self, annotator: str, stage: ReviewStage, want_gold: GoldWish = "no") -> str | None:
        """Reserves the pair that follows the one on the annotator's screen, and returns its id."""
        with self._db.transaction():
            current = self._leased_pair(annotator, stage)
            found = self._next_pair(annotator, stage, want_gold, other_than=current) if current else None
            if found:
                self._add_lease(found, annotator, ahead=True)
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
            stage = self._vote_stage(vote)
            if known and tuple(known[0]) == (vote.pair_id, stage, *answers, 0):
                return
            voted = "SELECT 1 FROM votes WHERE annotator = ? AND pair_id = ? AND NOT withdrawn"
            if known or self._db.all(voted, vote.annotator, vote.pair_id):
                raise AlreadyVotedError(f"{vote.annotator} has already voted on {vote.pair_id}")
            self._check_open(vote, needs_lease)
            self._check_asked(vote)
            self._db.run(
                _INSERT_VOTE,
                vote.vote_id,
                vote.pair_id,
                vote.annotator,
                stage,
                *answers,
                vote.verdict,
                vote.first_side,
                vote.seconds,
                vote.cast_at,
                vote.annotation.bad_prompt,
                vote.annotation.note,
            )
            self._db.run("DELETE FROM leases WHERE pair_id = ? AND annotator = ?", vote.pair_id, vote.annotator)
            self._update_status(vote.pair_id)

    def withdraw(self, annotator: str, stage: ReviewStage) -> Vote:
        """Withdraws the vote that the annotator cast last in this stage, reserves its pair again, and returns the vote.

        Raises NothingToUndoError if there is none, or if the pair was adjudicated since.
        """
        newest = (
            "SELECT * FROM votes WHERE annotator = ? AND (stage = 'adjudication') = ? AND NOT withdrawn AND pair_id IN "
            "(SELECT pair_id FROM pairs WHERE listed) ORDER BY number DESC LIMIT 1"
        )
        with self._db.transaction():
            rows = self._db.all(newest, annotator, stage == "adjudication")
            if not rows:
                raise NothingToUndoError("There is no earlier pair to go back to.")
            vote = load_vote(rows[0])
            if vote.stage == "review" and any(other.stage == "adjudication" for other in self.votes_on(vote.pair_id)):
                raise NothingToUndoError("The last pair was adjudicated in the meantime and cannot be changed.")
            self._db.run("UPDATE votes SET withdrawn = 1 WHERE number = ?", rows[0]["number"])
            self._db.run("DELETE FROM leases WHERE annotator = ?", annotator)
            self._add_lease(vote.pair_id, annotator)
            self._update_status(vote.pair_id)
            return vote

    def void(self, annotators: Sequence[str]) -> int:
        """Withdraws all votes of these annotators for good, and returns their number. The pairs open again."""
        with self._db.transaction():
            pair_ids: set[str] = set()
            count = 0
            for name in annotators:
                rows = self._db.all("SELECT pair_id FROM votes WHERE annotator = ? AND NOT withdrawn", name)
                pair_ids |= {row["pair_id"] for row in rows}
                count += len(rows)
                self._db.run("UPDATE votes SET withdrawn = 1 WHERE annotator = ?", name)
                self._db.run("DELETE FROM leases WHERE annotator = ?", name)
            for pair_id in pair_ids:
                decided = "UPDATE pairs SET gold = 0 WHERE pair_id = ? AND status IN ('accepted', 'rejected')"
                self._db.run(decided, pair_id)  # the next `fill` chooses the gold pairs
                self._update_status(pair_id)
            return count

    def _leased_pair(self, annotator: str, stage: ReviewStage) -> str | None:
        """The pair on the annotator's screen, if it still needs them."""
        needed = DISPUTED if stage == "adjudication" else f"(({GOLD}) OR ({PENDING}))"
        rows = self._select(
            "SELECT pair_id FROM pairs JOIN (SELECT pair_id AS leased, rowid AS number, ahead FROM leases "
            f"WHERE annotator = :annotator AND {VALID_LEASE}) ON leased = pair_id WHERE {needed} "
            "ORDER BY ahead, number DESC LIMIT 1",
            annotator,
        )
        return rows[0]["pair_id"] if rows else None

    def _add_lease(self, pair_id: str, annotator: str, ahead: bool = False) -> None:
        until = time.time() + self._lease_seconds
        self._db.run("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", pair_id, annotator, until, ahead)

    def _next_pair(
        self, annotator: str, stage: ReviewStage, want_gold: GoldWish = "no", other_than: str = ""
    ) -> str | None:
        """The first pair that needs the annotator."""
        if stage == "adjudication":
            conditions = [DISPUTED_AND_FREE]
        else:
            conditions = {"no": [PENDING_AND_FREE], "first": [GOLD, PENDING_AND_FREE], "only": [GOLD]}[want_gold]
        for condition in conditions:
            query = f"SELECT pair_id FROM pairs WHERE {condition} AND pair_id != :pair_id ORDER BY position LIMIT 1"
            rows = self._select(query, annotator, other_than)
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
        )

    def _vote_stage(self, vote: Vote) -> VoteStage:
        """What a vote is for: on a pair that was decided before it measures the annotator only."""
        decided = "SELECT 1 FROM pairs WHERE pair_id = ? AND gold AND status IN ('accepted', 'rejected')"
        return "gold" if vote.stage == "review" and self._db.all(decided, vote.pair_id) else vote.stage

    def _check_asked(self, vote: Vote) -> None:
        """Raises NotOpenError if claims were added to the question since the annotator received it."""
        asked, annotation = self.asked(vote.pair_id), vote.annotation
        open_claims = [(annotation.winner, claim) for claim in asked.winner]
        open_claims += [(annotation.loser, claim) for claim in asked.loser]
        if not all(answers[claim] for answers, claim in open_claims):
            raise NotOpenError(f"further claims of {vote.pair_id} have to be answered: load the pair again")

    def _update_status(self, pair_id: str) -> None:
        """Settles a pair by its votes. A pair whose truth is known is left as it is."""
        row = self._db.one("SELECT rule, gold, status FROM pairs WHERE pair_id = ?", pair_id)
        if row["gold"] or not row["rule"]:
            return
        votes = self.votes_on(pair_id)
        reviews = [vote.annotation for vote in votes if vote.stage == "review"]
        adjudication = next((vote.annotation for vote in votes if vote.stage == "adjudication"), None)
        state = settle(load_rule(row["rule"]), reviews, adjudication, self._annotators_per_pair)
        self._db.run(
            "UPDATE pairs SET status = ?, tier = ?, asked = ?, wanted = ? WHERE pair_id = ?",
            state.status,
            state.tier,
            dump_asked(state.asked),
            state.wanted,
            pair_id,
        )

    def _settle_older(self, pair_ids: set[str]) -> None:
        for pair_id in pair_ids:
            text = self._db.one("SELECT rule FROM pairs WHERE pair_id = ?", pair_id)["rule"]
            if text:  # else it is not in the dataset any more
                for row in self._db.all("SELECT number, winner, loser FROM votes WHERE pair_id = ?", pair_id):
                    winner, loser = (translated(row[side], load_rule(text)) for side in ("winner", "loser"))
                    query = "UPDATE votes SET winner = ?, loser = ? WHERE number = ?"
                    self._db.run(query, winner, loser, row["number"])
                self._update_status(pair_id)

    def _ids(self, query: str) -> set[str]:
        return {row["pair_id"] for row in self._db.all(query)}
