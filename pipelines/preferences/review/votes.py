"""Records of the review: votes, queue entries, progress, and the errors about votes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.preferences.claims import Answer, ClaimRule
from pipelines.preferences.review.annotation import Annotation, Verdict
from pipelines.preferences.row_values import ReviewStatus, Side, Tier

ReviewStage = Literal["review", "adjudication"]
"""What an annotator does: review pairs, or decide disputed ones."""

VoteStage = Literal["review", "adjudication", "gold"]
"""What a vote is for. gold: it measures the annotator on a pair that was decided before, and decides nothing."""


class VoteRefusedError(Exception):
    """A vote was not saved. The message gives the reason."""


class AlreadyVotedError(VoteRefusedError):
    """The annotator has another vote on this pair, or has sent other answers under this vote_id."""


class NotOpenError(VoteRefusedError):
    """The pair is not on the annotator's screen, or needs no vote any more."""


class NothingToUndoError(Exception):
    """The annotator has no vote that can be withdrawn. The message gives the reason."""


@dataclass(frozen=True)
class Vote:
    """One annotator's answers about one pair."""

    vote_id: str  # chosen by the annotator's browser, so that a vote that is sent again counts once
    pair_id: str
    annotator: str
    stage: VoteStage
    annotation: Annotation
    verdict: Verdict
    first_side: Side  # the image that was shown first
    seconds: float  # time that the pair was on the screen
    cast_at: float  # seconds since 1970

    @property
    def as_shown(self) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
        """The answers about the first and about the second image."""
        winner, loser = self.annotation.winner, self.annotation.loser
        return (winner, loser) if self.first_side == "w" else (loser, winner)


GoldWish = Literal["no", "first", "only"]
"""Whether an annotator's next pair is to be a gold pair: no, yes if one is left, or nothing else."""


@dataclass(frozen=True)
class QueueEntry:
    """One pair of the queue."""

    pair_id: str
    rule: ClaimRule
    gold: bool = False  # it measures the annotators, because its truth is known or this review has decided it


@dataclass(frozen=True)
class Decision:
    """What a review says about a pair so far."""

    status: ReviewStatus
    tier: Tier | None  # of an accepted pair
    adjudicated: bool = False


@dataclass(frozen=True)
class VoteCounts:
    """Numbers of one annotator's votes."""

    total: int
    gold: int  # of these, on gold pairs


@dataclass(frozen=True)
class Progress:
    """The progress of one annotator and of the whole dataset, in pairs."""

    done: int  # judged by the annotator
    waiting: int  # still to be judged by the annotator
    decided: int  # accepted or rejected, of the dataset
    pairs: int  # of the dataset
    pairs_per_hour: float  # the annotator's pace over the last 20 pairs; 0 before the first
