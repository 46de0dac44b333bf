"""Pairwise answers: each pair is asked in both orders, so that a liking for the first image cannot decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.reward.predictions import PairPredictions


def combine_orders(winner_first: Sequence[float], loser_first: Sequence[float]) -> PairPredictions:
    """Answers are 1 for the first image shown, -1 for the second, 0 for neither, NaN for none.

    The margin is the mean vote for the winner: 1 where both orders agree on it, 0 where they contradict each other,
    NaN where one of the two has no answer.
    """
    votes = (np.array(winner_first, np.float32) - np.array(loser_first, np.float32)) / 2
    return PairPredictions(votes, np.zeros(len(votes), bool))
