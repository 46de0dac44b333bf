"""Pairwise answers in both orders, so that a preference for the first image cannot decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.reward.predictions import PairPredictions


def combine_orders(winner_first: Sequence[float], loser_first: Sequence[float]) -> PairPredictions:
    """Combines answers: 1 for the first image shown, -1 for the second, 0 for neither, NaN for no answer.

    The margin is the mean vote for the winner: 1 if both orders agree on it, 0 if they contradict each other, NaN if
    one of them has no answer.
    """
    votes = (np.array(winner_first, np.float32) - np.array(loser_first, np.float32)) / 2
    return PairPredictions(votes, np.zeros(len(votes), bool))
