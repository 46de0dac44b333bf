"""Pairwise answers in both orders, so that a preference for the first image cannot decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.reward.predictions import PairPredictions


@dataclass(frozen=True)
class TwoOrderPredictions(PairPredictions):
    """Predictions of a model that saw each pair in both orders.

    `right` is the strict measure: answers that contradict each other are a tie, and a tie is wrong. Published figures
    are often those of one question a pair in a random order, whose expectation is the mean over both orders.
    """

    one_order: np.ndarray  # [N] share of the two orders in which the winner was chosen: 0, 1/2 or 1

    @classmethod
    def joined(cls, parts: Sequence[TwoOrderPredictions]) -> TwoOrderPredictions:
        """Several parts as one, in order."""
        whole = PairPredictions.concatenate(parts)
        return cls(whole.margin, whole.truncated, np.concatenate([part.one_order for part in parts]))


def combine_orders(winner_first: Sequence[float], loser_first: Sequence[float]) -> TwoOrderPredictions:
    """Combines answers: 1 for the first image shown, -1 for the second, 0 for neither, NaN for no answer.

    The margin is the mean vote for the winner: 1 if both orders agree on it, 0 if they contradict each other, NaN if
    one of them has no answer.
    """
    first, second = np.array(winner_first, np.float32), np.array(loser_first, np.float32)
    one_order = ((first == 1).astype(np.float32) + (second == -1).astype(np.float32)) / 2
    return TwoOrderPredictions((first - second) / 2, np.zeros(len(first), bool), one_order)


def concatenated(parts: Sequence[PairPredictions]) -> PairPredictions:
    """Several parts of one model's predictions as one, in order."""
    both = [part for part in parts if isinstance(part, TwoOrderPredictions)]
    return TwoOrderPredictions.joined(both) if len(both) == len(parts) else PairPredictions.concatenate(parts)
