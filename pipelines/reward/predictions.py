"""What a model says of preference pairs, whatever kind of model it is.

Axes: N pairs, B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipelines.reward.data import Pair


@dataclass(frozen=True)
class PairPredictions:
    """A model's answers on N pairs."""

    margin: np.ndarray  # [N] float32: above 0 it prefers image_w, below 0 image_l; 0 a tie; NaN no answer
    truncated: np.ndarray  # [N] bool: it did not read the whole prompt

    @property
    def right(self) -> np.ndarray:
        """Whether each pair is in the right order  # [N] bool. A tie is wrong, and so is no answer."""
        return self.margin > 0

    @classmethod
    def joined(cls, parts: Sequence[PairPredictions]) -> PairPredictions:
        """Several parts as one, in their order."""
        return cls(np.concatenate([p.margin for p in parts]), np.concatenate([p.truncated for p in parts]))


class PairJudge(Protocol):
    """A model that orders the images of pairs."""

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Answers pair by pair. It must not learn from a pair which image is the winner."""
        ...


@dataclass(frozen=True)
class ImageScores:
    """A scoring model's values for B images under their prompts; higher is better."""

    values: np.ndarray  # [B] float32, NaN where there is none
    truncated: np.ndarray  # [B] bool


class ImageScorer(Protocol):
    """A model that scores one image under one prompt."""

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> ImageScores:
        """Scores image i, uint8 [H, W, 3], under prompt i."""
        ...


class ScoringJudge:
    """Orders a pair by the scores of its images."""

    def __init__(self, scorer: ImageScorer, batch_images: int) -> None:
        self._scorer, self._pairs = scorer, max(1, batch_images // 2)

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Margins are differences of scores, both images of a pair in one forward."""
        return PairPredictions.joined(
            [self._judge(pairs[start : start + self._pairs]) for start in range(0, len(pairs), self._pairs)]
        )

    def _judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        images = [image for pair in pairs for image in (pair.image_w, pair.image_l)]
        scores = self._scorer.score(images, [pair.prompt for pair in pairs for _ in range(2)])
        values = scores.values.reshape(-1, 2).astype(np.float32)
        return PairPredictions(values[:, 0] - values[:, 1], np.asarray(scores.truncated.reshape(-1, 2).any(1)))
