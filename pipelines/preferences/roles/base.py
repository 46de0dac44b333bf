"""The four roles that make a preference pair, and the records they hand to one another.

    Task --writer--> Draft --perturber--> Draft --painter--> Painted --reviewer--> Review

A row that cannot go on becomes `Dropped` and passes the other roles by.

Every role works on a list, so that an implementation may batch its forwards or bound its concurrent calls as it likes,
and answers in the order it was asked. What it answers follows from its input and the task's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.types import Prompt
from pipelines.common.images import StoredImage

KINDS = ("perturbed", "exploit", "generated")


@dataclass(frozen=True)
class RowSpec:
    """One row to make."""

    index: int  # of the row in the whole build
    kind: str  # one of KINDS
    seed: int  # of everything random about the row


@dataclass(frozen=True)
class Edit:
    """What is wrong in the loser, e.g. "flip", from "red circle left of blue square" to "red circle right of …"."""

    kind: str
    before: str
    after: str


@dataclass(frozen=True)
class PromptPair:
    """A pair in words."""

    task: RowSpec
    prompt: Prompt
    scene: str  # the kind of place, e.g. "Kitchen"; here the form of the sentence
    group_id: str  # equal for prompts that must share a split
    phrases: tuple[str, ...] = ()  # where the prompt states each relation, word for word; empty: not known
    perturbed: Prompt | None = None  # what the loser shows instead; None where the prompt itself is not changed
    changes: tuple[Edit, ...] = ()

    @property
    def texts(self) -> tuple[str, str]:
        """What winner and loser are to show. Raises ValueError where the prompt is not perturbed."""
        if self.perturbed is None:
            raise ValueError(f"row {self.task.index} must be perturbed before it is painted, got kind {self.task.kind}")
        return self.prompt.text, self.perturbed.text

    @property
    def image_seed(self) -> int:
        """Of both pictures: the row's, modulo the 2^31 that services take."""
        return self.task.seed % 2**31


@dataclass(frozen=True)
class Dropped:
    """A row that ends here."""

    task: RowSpec
    role: str  # that could not do it
    reason: str  # one of few words, to be counted
    message: str
    final: bool = True  # False: another time it may succeed, so the row is made again by the next start


@dataclass(frozen=True)
class RawImage:
    """One picture as it leaves a painter."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    generator: str  # who painted it
    seed: int

    def encoded(self) -> StoredImage:
        """The picture as it is kept."""
        return StoredImage.of(self.pixels, self.generator, self.seed)


@dataclass(frozen=True)
class RawPair:
    """A pair as it leaves a painter that has no time to encode it."""

    draft: PromptPair
    winner: RawImage
    loser: RawImage

    def encoded(self) -> ImagePair:
        """The pair as it is kept."""
        return ImagePair(self.draft, self.winner.encoded(), self.loser.encoded())


@dataclass(frozen=True)
class ImagePair:
    """A pair in pictures. The painter adds its own changes to the draft where it spoils a picture on purpose."""

    draft: PromptPair
    winner: StoredImage
    loser: StoredImage


@dataclass(frozen=True)
class Review:
    """Whether the winner shows the prompt and the loser does not."""

    status: str  # accepted | rejected | pending
    votes: tuple[str, ...]  # one a reviewer: "w", "l" or "tie"
    agreement: float  # share of votes for the most frequent answer
    gold: bool  # the truth of this pair is known exactly

    @property
    def accepted(self) -> bool:
        return self.status == "accepted"

    @property
    def kept(self) -> bool:
        """Whether the row is written: a pending one waits in its file for people to review it."""
        return self.status != "rejected"


@dataclass(frozen=True)
class Reviewed:
    """A pair and what became of it."""

    pair: ImagePair
    review: Review


class Writer(Protocol):
    """Writes one prompt a task."""

    def write(self, tasks: Sequence[RowSpec]) -> list[PromptPair]: ...


class Perturber(Protocol):
    """Changes one to three spatial relations of a prompt and nothing else, so that the result contradicts it."""

    def perturb(self, drafts: Sequence[PromptPair]) -> list[PromptPair]: ...


class Generator(Protocol):
    """Paints both sides of a pair."""

    def generate(self, drafts: Sequence[PromptPair]) -> list[ImagePair]: ...


class Reviewer(Protocol):
    """Accepts a pair whose winner shows the prompt and whose loser does not."""

    def review(self, pairs: Sequence[ImagePair]) -> list[Review]: ...


@dataclass(frozen=True)
class PendingReviewer:
    """Leaves every pair to the people who review the finished set."""

    def review(self, pairs: Sequence[ImagePair]) -> list[Review]:
        """`pending` for all."""
        return [Review("pending", (), agreement=0.0, gold=False) for _ in pairs]
