"""What lies on a reviewer's desk: the next pair, blind and with its sides shuffled, and what became of the last."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, replace

from conf.review import ReviewSettings
from pipelines.preferences.review.annotation import Annotation, truth, verdict
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.overview import Overview, summarise
from pipelines.preferences.review.pairs import SIDES, PairSet, ReviewPair
from pipelines.preferences.review.store import ADJUDICATION, Entry, Store, Vote
from pipelines.preferences.review.triage_scores import TriageScores, check

LONGEST = 24 * 3600.0  # seconds; a tab left open over night says nothing about pace


@dataclass(frozen=True)
class ReviewItem:
    """A pair as a reviewer sees it. Nothing in it tells which picture is the winner or what was changed."""

    pair: ReviewPair
    images: tuple[str, str]  # keys of the first and the second picture
    answers: tuple[tuple[str, ...], tuple[str, ...]] | None  # of an undone vote, to start from
    disputed: tuple[tuple[int, ...], tuple[int, ...]] | None  # for adjudicators: claims on which reviewers differ


class ReviewQueue:
    """The set, its gold pairs and the votes, for any reviewer."""

    def __init__(
        self,
        pairs: PairSet,
        gold: PairSet | None,
        store: Store,
        secret: bytes,
        settings: ReviewSettings,
        doubts: TriageScores | None = None,
    ) -> None:
        """`gold`: another set of pairs whose truth is known; None: such pairs of the set itself are taken.

        `doubts`: a model's, by which the queue is put in order; None: it is shuffled.
        """
        self._pairs, self._gold, self._store, self._settings = pairs, gold or pairs, store, settings
        self._secret, self._doubts = secret, doubts
        chosen = self._gold_ids = self._choose_gold()
        ordinary = [pair.pair_id for pair in pairs.pairs() if pair.pair_id not in chosen and pair.status != "rejected"]
        entries = [Entry(pair_id, gold=True) for pair_id in chosen] + [Entry(name, gold=False) for name in ordinary]
        self._known = {entry.pair_id: entry.gold for entry in entries}
        store.fill(sorted(entries, key=lambda entry: self._place(entry.pair_id)))

    def next_item(self, session: Session) -> ReviewItem | None:
        """The reviewer's next pair, or None when nothing waits for them."""
        due = self._gold_is_due(session.annotator)
        pair_id = self._store.lease(session.annotator, session.stage, due)
        return self._item(session, pair_id) if pair_id else None

    def cast(self, session: Session, vote_id: str, pair_id: str, first: Annotation, seconds: float) -> None:
        """Saves answers. `first.winner` and `first.loser` are those about the first and the second picture.

        Raises ValueError for a pair that is not in the queue or answers that do not fit it; see also Store.cast.
        """
        pair = self.find(pair_id)
        side = self._first_side(session.annotator, pair_id)
        ballot = first if side == "w" else Annotation(first.loser, first.winner)
        ballot.check(pair)
        self._store.cast(
            Vote(
                vote_id, pair_id, session.annotator, session.stage, ballot, verdict(pair, ballot), side,
                min(max(seconds, 0.0), LONGEST), time.time(),
            )
        )  # fmt: skip

    def undo(self, session: Session) -> ReviewItem:
        """The reviewer's last pair again, with the answers they gave. Raises NothingToUndoError."""
        vote = self._store.withdraw(session.annotator)
        return self._item(session, vote.pair_id, vote.as_shown)

    def image(self, session: Session, pair_id: str, key: str) -> bytes:
        """The image file behind a key that this reviewer was given. Raises KeyError for any other."""
        for side in SIDES:
            if pair_id in self._known and hmac.compare_digest(key.encode(), self._key(session, pair_id, side).encode()):
                return self._set_of(pair_id).image(pair_id, side)
        raise KeyError(key)

    def overview(self, session: Session) -> Overview:
        """How the review stands. Adjudicators see everybody, a reviewer only their own row."""
        statuses = self._store.statuses()
        seen = summarise(self._store.votes(), statuses, {n: self.find(n) for n in self._gold_ids})
        seen = replace(seen, triage=check(self._doubts, statuses) if self._doubts else None)
        if session.stage == ADJUDICATION:
            return seen
        own = tuple(row for row in seen.annotators if row.name == session.annotator)
        return replace(seen, people=own, couples=(), triage=None)

    def find(self, pair_id: str) -> ReviewPair:
        """Raises ValueError for a pair that is not in the queue."""
        if pair_id not in self._known:
            raise ValueError(f"{pair_id!r} is not in the set under review")
        return self._set_of(pair_id).pair(pair_id)

    def _set_of(self, pair_id: str) -> PairSet:
        return self._gold if self._known[pair_id] else self._pairs

    def _choose_gold(self) -> set[str]:
        share = self._settings.gold_fraction
        candidates = [pair.pair_id for pair in self._gold.pairs() if truth(pair)]
        if self._gold is not self._pairs and (shared := set(candidates) & set(self._pairs.ids)):
            raise ValueError(f"gold pairs must have ids of their own, but {min(shared)} is in the set under review too")
        wanted = min(len(candidates), max(1, round(share * len(self._pairs)))) if share else 0
        return set(sorted(candidates, key=lambda name: self._draw("gold", name))[:wanted])

    def _gold_is_due(self, reviewer: str) -> bool:
        """One gold pair in every 1 / gold_fraction, at a place that nobody can foresee."""
        if not self._settings.gold_fraction:
            return False
        votes, gold = self._store.counts(reviewer)
        period = round(1 / self._settings.gold_fraction)
        block, place = divmod(votes, period)
        return gold <= block and place >= self._draw("place", f"{reviewer}|{block}") % period

    def _item(
        self, session: Session, pair_id: str, answers: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    ) -> ReviewItem:
        first = self._first_side(session.annotator, pair_id)
        order = (first, "l" if first == "w" else "w")
        pictures = self._key(session, pair_id, order[0]), self._key(session, pair_id, order[1])
        disputed = None
        if session.stage == ADJUDICATION:
            ballots = [vote.annotation for vote in self._store.votes_on(pair_id)]
            differ = {"w": _differing([b.winner for b in ballots]), "l": _differing([b.loser for b in ballots])}
            disputed = differ[order[0]], differ[order[1]]
        return ReviewItem(self.find(pair_id), pictures, answers, disputed)

    def _first_side(self, reviewer: str, pair_id: str) -> str:
        return SIDES[self._keyed(f"side|{reviewer}|{pair_id}")[0] % 2]

    def _key(self, session: Session, pair_id: str, side: str) -> str:
        return self._keyed(f"picture|{session.annotator}|{pair_id}|{side}").hex()[:24]

    def _place(self, pair_id: str) -> tuple[float, int]:
        """Doubted pairs first, the others shuffled."""
        return self._doubts.rank(pair_id) if self._doubts else 0.0, self._draw("order", pair_id)

    def _draw(self, purpose: str, name: str) -> int:
        text = f"{self._settings.seed}|{purpose}|{name}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())

    def _keyed(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), "sha256")


def _differing(answers: list[tuple[str, ...]]) -> tuple[int, ...]:
    """Claims that not all reviewers answered alike, or that one was unsure of."""
    columns = enumerate(zip(*answers, strict=True))
    return tuple(claim for claim, given in columns if len(set(given)) > 1 or "unsure" in given)
