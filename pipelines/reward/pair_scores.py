"""Scores of both images of preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.spatialscore import SpatialScorer
from actors.types import Scores
from pipelines.reward.data import Pair


@dataclass(frozen=True)
class PairScores:
    """Scores of the winners and of the losers of N pairs."""

    winner: Scores  # [N]
    loser: Scores  # [N]

    @property
    def margin(self) -> np.ndarray:
        """Score of the winner minus score of the loser  # [N]."""
        return self.winner.mu - self.loser.mu


def score_pairs(scorer: SpatialScorer, pairs: Sequence[Pair]) -> PairScores:
    """Scores image_w and image_l of each pair under its prompt."""
    return score_images_of_pairs(
        scorer,
        [pair.image_w for pair in pairs],
        [pair.image_l for pair in pairs],
        [pair.prompt for pair in pairs],
    )


def score_under_perturbed_prompts(scorer: SpatialScorer, pairs: Sequence[Pair]) -> PairScores:
    """Scores the pairs under their perturbed prompts, where image_l is the winner. Every pair must have one."""
    return score_images_of_pairs(
        scorer,
        [pair.image_l for pair in pairs],
        [pair.image_w for pair in pairs],
        [str(pair.perturbed_prompt) for pair in pairs],
    )


def score_images_of_pairs(
    scorer: SpatialScorer, winners: Sequence[np.ndarray], losers: Sequence[np.ndarray], prompts: Sequence[str]
) -> PairScores:
    """Scores winners[i] and losers[i], uint8 [H, W, 3], under prompts[i]. There may be none."""
    count = len(prompts)
    if not count:
        none = np.empty(0, np.float32)
        return PairScores(Scores(none, none), Scores(none, none))
    scores = scorer.score(images=[*winners, *losers], prompts=[*prompts, *prompts])
    return PairScores(
        Scores(scores.mu[:count], scores.sigma[:count]),
        Scores(scores.mu[count:], scores.sigma[count:]),
    )
