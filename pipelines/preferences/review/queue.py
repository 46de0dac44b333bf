"""The review queue: an annotator's next pair, with hidden sides in random order, and the annotator's answers."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from dataclasses import dataclass, replace

from conf.review import ReviewSettings
from pipelines.preferences.claims import Answer
from pipelines.preferences.dataset.masters import read_master
from pipelines.preferences.review.annotation import Annotation, Asked, verdict
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.gold import GoldPairs, Qualification, choose_gold, right_share
from pipelines.preferences.review.overview import Overview, summarise
from pipelines.preferences.review.pairs import SIDES, PairSet, ReviewPair
from pipelines.preferences.review.screen_images import ScreenImages
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.triage_scores import TriageScores, triage_outcome
from pipelines.preferences.review.votes import GoldWish, QueueEntry, Vote
from pipelines.preferences.row_values import Side

MAX_SECONDS = 24 * 3600.0  # of one pair; longer times come from a tab that stayed open

OVERVIEW_SECONDS = 60.0
"""An overview of all votes is computed at most once in this time."""

Answers = tuple[tuple[Answer, ...], tuple[Answer, ...]]
"""Answers about the first and about the second image."""


@dataclass(frozen=True)
class GivenAnswers:
    """What an annotator sends about a pair."""

    first: tuple[Answer, ...]
    second: tuple[Answer, ...]
    bad_prompt: bool = False
    note: str = ""


@dataclass(frozen=True)
class ReviewItem:
    """A pair as an annotator sees it. It does not tell which image is the winner or what was changed."""

    pair: ReviewPair
    images: tuple[str, str]  # keys of the first and of the second image
    asked: tuple[tuple[int, ...], tuple[int, ...]]
    """Claims to answer about the first and about the second image, in the order in which they are shown."""
    answers: Answers | None  # of a vote that was undone
    notes: tuple[str, ...] = ()  # of the annotators, for adjudicators


class ReviewQueue:
    """The dataset under review, its gold pairs and its votes, for all annotators."""

    def __init__(
        self,
        pairs: PairSet,
        gold: PairSet | None,
        store: Store,
        secret: bytes,
        settings: ReviewSettings,
        triage_scores: TriageScores | None = None,
        masters: str = "",
    ) -> None:
        """`gold` is another dataset whose truth is known; None: gold pairs are taken from the dataset itself.

        `triage_scores` puts flagged pairs first. Those with doubts of the check of images follow. `secret` determines
        the order of the sides. `masters`: where the images at full size are, if they are kept.
        """
        self._pairs, self._other_gold, self._store, self._settings = pairs, gold, store, settings
        self._secret, self._triage_scores, self._masters = secret, triage_scores, masters
        self._gold = self._choose_gold()
        self._overview: tuple[float, Overview] | None = None  # when it was computed, and the overview
        self._overview_lock = threading.Lock()
        self._screen_images = ScreenImages()
        others = [pair for pair in pairs.pairs() if pair.pair_id not in self._gold.truths and pair.status != "rejected"]
        entries = [QueueEntry(name, self._source_of_gold().pair(name).rule, gold=True) for name in self._gold.truths]
        self._doubts = {pair.pair_id: pair.doubts.count for pair in others}
        entries += [QueueEntry(pair.pair_id, pair.rule) for pair in others]
        self._is_gold = {entry.pair_id: entry.gold for entry in entries}
        store.fill(sorted(entries, key=lambda entry: self._sort_key(entry.pair_id)))

    def next_item(self, session: Session) -> ReviewItem | None:
        """The annotator's next pair, or None if there is none, or if they have not passed the qualification."""
        qualification = self.qualification(session)
        if qualification.failed:
            return None
        want_gold: GoldWish = "only" if qualification.running else self._gold_is_due(session.annotator)
        pair_id = self._store.lease(session.annotator, session.stage, want_gold)
        return self._item(session, pair_id) if pair_id else None

    def qualification(self, session: Session) -> Qualification:
        """How far the annotator is in the qualification round: the first `review.qualification` gold pairs."""
        pairs = min(self._settings.qualification, len(self._gold.truths))
        if session.stage == "adjudication" or not pairs:
            return Qualification(0, 0, 1.0, self._settings.qualification_share)
        votes = self._store.gold_votes(session.annotator)[:pairs]
        return Qualification(
            pairs, len(votes), right_share(votes, self._gold.truths) or 0.0, self._settings.qualification_share
        )

    def cast(self, session: Session, vote_id: str, pair_id: str, given: GivenAnswers, seconds: float) -> None:
        """Saves the answers about the first and the second image as a vote.

        Raises ValueError if the pair is not in the queue or the answers do not fit it. See also Store.cast.
        """
        rule = self.find(pair_id).rule
        first_side = self._first_side(session.annotator, pair_id)
        if given.bad_prompt:
            annotation = Annotation.of_bad_prompt(rule.claims, given.note)
        else:
            sides = (given.first, given.second) if first_side == "w" else (given.second, given.first)
            annotation = Annotation(*sides, note=given.note)
        annotation.check(rule.claims, self._asked(session, pair_id))
        self._store.cast(
            Vote(
                vote_id=vote_id,
                pair_id=pair_id,
                annotator=session.annotator,
                stage=session.stage,
                annotation=annotation,
                verdict=verdict(rule, annotation),
                first_side=first_side,
                seconds=min(max(seconds, 0.0), MAX_SECONDS),
                cast_at=time.time(),
            )
        )

    def undo(self, session: Session) -> ReviewItem:
        """The annotator's last pair again, with the answers that were given. Raises NothingToUndoError."""
        vote = self._store.withdraw(session.annotator, session.stage)
        return self._item(session, vote.pair_id, vote.as_shown)

    def item_ahead(self, session: Session) -> ReviewItem | None:
        """The pair that will follow the one on the annotator's screen, reserved for them, so that it can be loaded."""
        qualification = self.qualification(session)
        if qualification.running:
            return None
        want_gold = self._gold_is_due(session.annotator, ahead=1)
        pair_id = self._store.lease_ahead(session.annotator, session.stage, want_gold)
        return self._item(session, pair_id) if pair_id else None

    def image(self, session: Session, pair_id: str, key: str, full: bool = False) -> bytes:
        """The image file behind a key that this annotator received, at screen size or, if `full`, its master.

        Raises KeyError for any other key.
        """
        for side in SIDES:
            expected = self._image_key(session, pair_id, side)
            if pair_id in self._is_gold and hmac.compare_digest(key.encode(), expected.encode()):
                stored = self._source(pair_id).image(pair_id, side)
                if not full:
                    return self._screen_images.get(stored)
                return (pair_id in self._pairs and read_master(self._masters, pair_id, side)) or stored
        raise KeyError(key)

    def overview(self, session: Session) -> Overview:
        """The state of the review, at most a minute old. Adjudicators see everybody, others only their own row."""
        with self._overview_lock:
            if self._overview is None or time.monotonic() - self._overview[0] > OVERVIEW_SECONDS:
                self._overview = time.monotonic(), self._summarise()
            overview = self._overview[1]
        if session.stage == "adjudication":
            return overview
        own_row = tuple(row for row in overview.annotators if row.name == session.annotator)
        return replace(overview, annotators=own_row, annotator_pairs=(), notes=(), triage=None)

    def _summarise(self) -> Overview:
        decisions = self._store.decisions()
        rules = {pair_id: self.find(pair_id).rule for pair_id in self._is_gold}
        overview = summarise(self._store.votes(), decisions, rules, self._gold.truths)
        statuses = {pair_id: one.status for pair_id, one in decisions.items()}
        outcome = triage_outcome(self._triage_scores, statuses) if self._triage_scores else None
        return replace(overview, triage=outcome)

    def find(self, pair_id: str) -> ReviewPair:
        """Raises ValueError if the pair is not in the queue."""
        if pair_id not in self._is_gold:
            raise ValueError(f"a vote must be on a pair of the dataset under review, got {pair_id!r}")
        return self._source(pair_id).pair(pair_id)

    def _source(self, pair_id: str) -> PairSet:
        return self._source_of_gold() if self._is_gold[pair_id] else self._pairs

    def _source_of_gold(self) -> PairSet:
        return self._other_gold or self._pairs

    def _choose_gold(self) -> GoldPairs:
        fraction = self._settings.gold_fraction
        if not (fraction or self._settings.qualification):
            return GoldPairs({})
        found = choose_gold(self._pairs, self._other_gold, self._store)
        shares = round(fraction * len(self._pairs))
        count = min(len(found.truths), max(1, shares, self._settings.qualification))
        chosen = sorted(found.truths, key=lambda name: self._draw("gold", name))[:count]
        return GoldPairs({name: found.truths[name] for name in chosen})

    def _gold_is_due(self, annotator: str, ahead: int = 0) -> GoldWish:
        """One pair in every 1 / gold_fraction is a gold pair, at a position that the annotator cannot predict."""
        if not self._settings.gold_fraction:
            return "no"
        votes = self._store.counts(annotator)
        period = round(1 / self._settings.gold_fraction)
        block, position = divmod(votes.total + ahead, period)
        due = votes.gold <= block and position >= self._draw("gold position", f"{annotator}|{block}") % period
        return "first" if due else "no"

    def _item(self, session: Session, pair_id: str, answers: Answers | None = None) -> ReviewItem:
        first = self._first_side(session.annotator, pair_id)
        second: Side = "l" if first == "w" else "w"
        images = self._image_key(session, pair_id, first), self._image_key(session, pair_id, second)
        pair, asked = self.find(pair_id), self._asked(session, pair_id)
        winner, loser = (pair.doubts.first(pair.rule, claims) for claims in (asked.winner, asked.loser))
        shown = (winner, loser) if first == "w" else (loser, winner)
        notes = self._store.votes_on(pair_id) if session.stage == "adjudication" else []
        texts = tuple(vote.annotation.note for vote in notes if vote.annotation.note)
        return ReviewItem(pair, images, shown, answers, texts)

    def _asked(self, session: Session, pair_id: str) -> Asked:
        """The claims that the annotator has to answer: all of a gold pair, else those that are open."""
        if self._is_gold[pair_id]:
            return Asked.everything(self.find(pair_id).rule.claims)
        return self._store.asked(pair_id)

    def _first_side(self, annotator: str, pair_id: str) -> Side:
        """The image that the annotator sees first."""
        return SIDES[self._keyed_digest(f"side|{annotator}|{pair_id}")[0] % 2]

    def _image_key(self, session: Session, pair_id: str, side: Side) -> str:
        return self._keyed_digest(f"image|{session.annotator}|{pair_id}|{side}").hex()[:24]

    def _sort_key(self, pair_id: str) -> tuple[float, int, int]:
        """Pairs that triage flags first, then those with the most doubts of the check of images, then at random."""
        rank = self._triage_scores.rank(pair_id) if self._triage_scores else 0.0
        return rank, -self._doubts.get(pair_id, 0), self._draw("order", pair_id)

    def _draw(self, purpose: str, name: str) -> int:
        """A random number that depends only on the seed and the arguments."""
        text = f"{self._settings.seed}|{purpose}|{name}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())

    def _keyed_digest(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), "sha256")
