"""How a model orders the images of preference pairs, for every kind of model.

Axes: N pairs, B images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, Self

import numpy as np

from actors.rewards.batched import BatchedReward
from pipelines.reward.data import Pair


class PairKey(NamedTuple):
    """Identifies a held-out pair. Keys are in the order of the folders, and then of the ids."""

    folder: int  # number of its folder in the source
    pair_id: str


@dataclass(frozen=True)
class PairPredictions:
    """A model's predictions on N pairs."""

    margin: np.ndarray  # [N] float32: > 0 prefers image_w, < 0 prefers image_l, 0 is a tie, NaN no answer
    truncated: np.ndarray  # [N] bool: the model could not read the whole prompt

    @property
    def right(self) -> np.ndarray:
        """Whether each pair is in the right order  # [N] bool. A tie and a missing answer count as wrong."""
        return self.margin > 0

    def take(self, order: Sequence[int]) -> Self:
        """The predictions of the pairs with these numbers."""
        chosen = np.array(order, np.int64)
        return replace(self, **{name: values[chosen] for name, values in vars(self).items()})

    @classmethod
    def concatenate(cls, parts: Sequence[PairPredictions]) -> PairPredictions:
        """Several parts as one, in order."""
        return cls(np.concatenate([p.margin for p in parts]), np.concatenate([p.truncated for p in parts]))


class PairJudge(Protocol):
    """A model that orders the images of pairs."""

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Predictions for each pair. An implementation must not use that image_w is the winner."""
        ...


@dataclass(frozen=True)
class KeyedPredictions:
    """A model's predictions, each with the pair that it belongs to."""

    keys: tuple[PairKey, ...]
    predictions: PairPredictions

    def of(self, keys: Sequence[PairKey]) -> PairPredictions:
        """The predictions of these pairs, in order. A pair that the model could not read counts as unanswered."""
        number = {key: index for index, key in enumerate(self.keys)}
        found = self.predictions.take([number.get(key, 0) for key in keys])
        missing = np.array([key not in number for key in keys], bool)
        return replace(found, margin=np.where(missing, np.float32(np.nan), found.margin))


class ScoringJudge:
    """Orders the images of a pair by their scores."""

    def __init__(self, scorer: BatchedReward) -> None:
        """`scorer`: it has an even `batch_images`, so that both images of a pair are in the same forward pass."""
        self._scorer = scorer

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Margins are score differences."""
        images = [image for pair in pairs for image in (pair.image_w, pair.image_l)]
        values = self._scorer.score(images, [pair.prompt for pair in pairs for _ in range(2)]).mu.reshape(-1, 2)
        return PairPredictions(values[:, 0] - values[:, 1], self._scorer.truncated([pair.prompt for pair in pairs]))
