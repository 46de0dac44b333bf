"""The review queue: an annotator's next pair, with hidden sides in random order, and the annotator's answers."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass, replace

from conf import UserError
from conf.review import ReviewSettings
from pipelines.preferences.review.annotation import Annotation, truth, verdict
from pipelines.preferences.review.auth import Session
from pipelines.preferences.review.overview import Overview, summarise
from pipelines.preferences.review.pairs import SIDES, PairSet, ReviewPair
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.triage_scores import TriageScores, triage_outcome
from pipelines.preferences.review.votes import QueueEntry, Vote
from pipelines.preferences.row_values import Side

MAX_SECONDS = 24 * 3600.0  # of one pair; longer times come from a tab that stayed open

Answers = tuple[tuple[str, ...], tuple[str, ...]]
"""Answers about the first and about the second image."""


@dataclass(frozen=True)
class ReviewItem:
    """A pair as an annotator sees it. It does not tell which image is the winner or what was changed."""

    pair: ReviewPair
    images: tuple[str, str]  # keys of the first and of the second image
    answers: Answers | None  # of a vote that was undone
    disputed: tuple[tuple[int, ...], tuple[int, ...]] | None  # for adjudicators: claims on which annotators disagree


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
    ) -> None:
        """`gold` is another dataset whose truth is known; None: gold pairs are taken from the dataset itself.

        `triage_scores` puts flagged pairs first; None: the order is random. `secret` determines the order of the sides.
        """
        self._pairs, self._gold, self._store, self._settings = pairs, gold or pairs, store, settings
        self._secret, self._triage_scores = secret, triage_scores
        self._gold_ids = self._choose_gold()
        others = [
            pair.pair_id for pair in pairs.pairs() if pair.pair_id not in self._gold_ids and pair.status != "rejected"
        ]
        entries = [QueueEntry(pair_id, gold=True) for pair_id in self._gold_ids]
        entries += [QueueEntry(pair_id, gold=False) for pair_id in others]
        self._is_gold = {entry.pair_id: entry.gold for entry in entries}
        store.fill(sorted(entries, key=lambda entry: self._sort_key(entry.pair_id)))

    def next_item(self, session: Session) -> ReviewItem | None:
        """The annotator's next pair, or None if there is none."""
        pair_id = self._store.lease(session.annotator, session.stage, self._gold_is_due(session.annotator))
        return self._item(session, pair_id) if pair_id else None

    def cast(self, session: Session, vote_id: str, pair_id: str, answers: Answers, seconds: float) -> None:
        """Saves the answers about the first and the second image as a vote.

        Raises ValueError if the pair is not in the queue or the answers do not fit it. See also Store.cast.
        """
        pair = self.find(pair_id)
        first_side = self._first_side(session.annotator, pair_id)
        first, second = answers
        annotation = Annotation(first, second) if first_side == "w" else Annotation(second, first)
        annotation.check(pair)
        self._store.cast(
            Vote(
                vote_id=vote_id,
                pair_id=pair_id,
                annotator=session.annotator,
                stage=session.stage,
                annotation=annotation,
                verdict=verdict(pair, annotation),
                first_side=first_side,
                seconds=min(max(seconds, 0.0), MAX_SECONDS),
                cast_at=time.time(),
            )
        )

    def undo(self, session: Session) -> ReviewItem:
        """The annotator's last pair again, with the answers that were given. Raises NothingToUndoError."""
        vote = self._store.withdraw(session.annotator, session.stage)
        return self._item(session, vote.pair_id, vote.as_shown)

    def image(self, session: Session, pair_id: str, key: str) -> bytes:
        """The image file behind a key that this annotator received. Raises KeyError for any other key."""
        for side in SIDES:
            expected = self._image_key(session, pair_id, side)
            if pair_id in self._is_gold and hmac.compare_digest(key.encode(), expected.encode()):
                return self._source(pair_id).image(pair_id, side)
        raise KeyError(key)

    def overview(self, session: Session) -> Overview:
        """The state of the review. Adjudicators see everybody; other annotators see only their own row."""
        statuses = self._store.statuses()
        gold = {pair_id: self.find(pair_id) for pair_id in self._gold_ids}
        overview = summarise(self._store.votes(), statuses, gold)
        if session.stage == "adjudication":
            outcome = triage_outcome(self._triage_scores, statuses) if self._triage_scores else None
            return replace(overview, triage=outcome)
        own_row = tuple(row for row in overview.annotators if row.name == session.annotator)
        return replace(overview, annotators=own_row, annotator_pairs=())

    def find(self, pair_id: str) -> ReviewPair:
        """Raises ValueError if the pair is not in the queue."""
        if pair_id not in self._is_gold:
            raise ValueError(f"a vote must be on a pair of the dataset under review, got {pair_id!r}")
        return self._source(pair_id).pair(pair_id)

    def _source(self, pair_id: str) -> PairSet:
        return self._gold if self._is_gold[pair_id] else self._pairs

    def _choose_gold(self) -> set[str]:
        fraction = self._settings.gold_fraction
        candidates = [pair.pair_id for pair in self._gold.pairs() if truth(pair)]
        if self._gold is not self._pairs and (shared := set(candidates) & set(self._pairs.ids)):
            raise UserError(
                f"the pairs of review.gold_pairs must have other ids than the dataset under review, got {min(shared)} "
                "in both: build them with other ids, or unset review.gold_pairs"
            )
        count = min(len(candidates), max(1, round(fraction * len(self._pairs)))) if fraction else 0
        return set(sorted(candidates, key=lambda name: self._draw("gold", name))[:count])

    def _gold_is_due(self, annotator: str) -> bool:
        """One pair in every 1 / gold_fraction is a gold pair, at a position that the annotator cannot predict."""
        if not self._settings.gold_fraction:
            return False
        votes = self._store.counts(annotator)
        period = round(1 / self._settings.gold_fraction)
        block, position = divmod(votes.total, period)
        return votes.gold <= block and position >= self._draw("gold position", f"{annotator}|{block}") % period

    def _item(self, session: Session, pair_id: str, answers: Answers | None = None) -> ReviewItem:
        first = self._first_side(session.annotator, pair_id)
        second: Side = "l" if first == "w" else "w"
        images = self._image_key(session, pair_id, first), self._image_key(session, pair_id, second)
        disputed = None
        if session.stage == "adjudication":
            annotations = [vote.annotation for vote in self._store.votes_on(pair_id)]
            claims = {
                "w": _disputed_claims([one.winner for one in annotations]),
                "l": _disputed_claims([one.loser for one in annotations]),
            }
            disputed = claims[first], claims[second]
        return ReviewItem(self.find(pair_id), images, answers, disputed)

    def _first_side(self, annotator: str, pair_id: str) -> Side:
        """The image that the annotator sees first."""
        return SIDES[self._keyed_digest(f"side|{annotator}|{pair_id}")[0] % 2]

    def _image_key(self, session: Session, pair_id: str, side: Side) -> str:
        return self._keyed_digest(f"image|{session.annotator}|{pair_id}|{side}").hex()[:24]

    def _sort_key(self, pair_id: str) -> tuple[float, int]:
        """Flagged pairs first, the others in random order."""
        return self._triage_scores.rank(pair_id) if self._triage_scores else 0.0, self._draw("order", pair_id)

    def _draw(self, purpose: str, name: str) -> int:
        """A random number that depends only on the seed and the arguments."""
        text = f"{self._settings.seed}|{purpose}|{name}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())

    def _keyed_digest(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode(), "sha256")


def _disputed_claims(answers: list[tuple[str, ...]]) -> tuple[int, ...]:
    """Claims that got different answers, or the answer unsure."""
    by_claim = enumerate(zip(*answers, strict=True))
    return tuple(claim for claim, given in by_claim if len(set(given)) > 1 or "unsure" in given)
