"""The four roles that make a preference pair, and the records that they pass on.

    RowSpec --writer--> PromptPair --perturber--> PromptPair --generator--> ImagePair --reviewer--> Review

A row that fails becomes `Dropped`. The later roles skip it.

Every role takes and returns a list, in the same order, so an implementation can batch its forward passes or limit its
concurrent calls. The result depends only on the input and on the seed of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.types import Prompt
from pipelines.common.images import StoredImage
from pipelines.preferences.claims import Answer
from pipelines.preferences.row_values import PairKind, PreferenceVote, ReviewStatus, Tier


@dataclass(frozen=True)
class RowSpec:
    """One row to make."""

    index: int  # of the row in the whole build
    kind: PairKind
    seed: int  # all randomness of the row derives from it


@dataclass(frozen=True)
class Edit:
    """One error of the loser, e.g. "flip", "red circle left of blue square", "red circle right of blue square"."""

    kind: str
    before: str
    after: str


@dataclass(frozen=True)
class PromptPair:
    """The two prompts of a pair."""

    spec: RowSpec
    prompt: Prompt
    scene: str  # kind of place, e.g. "Kitchen"; in the scenes world the form of the sentence
    group_id: str  # equal for prompts that must be in the same split
    phrases: tuple[str, ...] = ()  # the words of the prompt that state each relation; empty if unknown
    perturbed: Prompt | None = None  # the prompt of the loser; None if both images have the same prompt
    edits: tuple[Edit, ...] = ()

    @property
    def texts(self) -> tuple[str, str]:
        """The prompts of the winner and of the loser. Raises ValueError if the prompt is not perturbed."""
        if self.perturbed is None:
            raise ValueError(
                f"row {self.spec.index} must be perturbed before its images are generated, got kind {self.spec.kind}"
            )
        return self.prompt.text, self.perturbed.text

    @property
    def image_seed(self) -> int:
        """The seed of both images: the seed of the row modulo 2^31, the range that image services accept."""
        return self.spec.seed % 2**31


@dataclass(frozen=True)
class Dropped:
    """A row that a role could not process."""

    spec: RowSpec
    role: str
    reason: str  # one of a few words, so that reasons can be counted
    message: str
    final: bool = True  # False: the next start makes the row again, because it may succeed then


@dataclass(frozen=True)
class RawImage:
    """One generated image, not encoded yet."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    generator: str
    seed: int


@dataclass(frozen=True)
class ImageCheck:
    """What a model answered about the images of a pair before people saw them."""

    winner: tuple[Answer, ...]  # one answer for each claim, see claims.py
    loser: tuple[Answer, ...]
    tries: tuple[int, int]  # images that were generated for the winner and for the loser
    audit: bool  # the first images were kept, whatever the answers


@dataclass(frozen=True)
class RawPair:
    """A pair of images that are not encoded yet, so that the generator does not wait for PNG encoding."""

    prompts: PromptPair
    winner: RawImage
    loser: RawImage
    check: ImageCheck | None = None


@dataclass(frozen=True)
class ImagePair:
    """A pair of images. A generator that corrupts the loser adds its edit to `prompts`."""

    prompts: PromptPair
    winner: StoredImage
    loser: StoredImage
    check: ImageCheck | None = None


@dataclass(frozen=True)
class Review:
    """Whether the winner shows the prompt and the loser does not."""

    status: ReviewStatus
    votes: tuple[PreferenceVote, ...]  # one for each reviewer
    agreement: float  # fraction of the votes that are the most frequent vote
    gold: bool  # the truth of this pair is known exactly
    tier: Tier | None = None  # of an accepted pair

    @property
    def accepted(self) -> bool:
        """Whether the pair may be trained on."""
        return self.status == "accepted"

    @property
    def kept(self) -> bool:
        """Whether the row is written. Pending rows are written so that annotators can review them."""
        return self.status != "rejected"


@dataclass(frozen=True)
class ReviewedPair:
    """A pair and its review."""

    pair: ImagePair
    review: Review


class Writer(Protocol):
    """Writes one prompt for each row."""

    def write(self, specs: Sequence[RowSpec]) -> list[PromptPair]:
        """Returns one PromptPair for each row, without a perturbed prompt."""
        ...


class Perturber(Protocol):
    """Changes one to three spatial relations of a prompt and nothing else, so that the result contradicts it."""

    def perturb(self, prompts: Sequence[PromptPair]) -> list[PromptPair]:
        """Adds the perturbed prompts and their edits."""
        ...


def ignore(count: int) -> None:
    """Takes the number of pairs that are done where nobody reports it."""


class Generator(Protocol):
    """Generates both images of a pair."""

    def generate(self, prompts: Sequence[PromptPair]) -> Sequence[ImagePair | RawPair]:
        """Returns one pair of images for each pair of prompts."""
        ...


class Reviewer(Protocol):
    """Accepts a pair if its winner shows the prompt and its loser does not."""

    def review(self, pairs: Sequence[ImagePair]) -> list[Review]:
        """Returns one review for each pair."""
        ...


@dataclass(frozen=True)
class PendingReviewer:
    """Leaves every pair to the annotators who review the finished dataset."""

    def review(self, pairs: Sequence[ImagePair]) -> list[Review]:
        """Returns status `pending` for all pairs."""
        return [Review("pending", (), agreement=0.0, gold=False) for _ in pairs]
