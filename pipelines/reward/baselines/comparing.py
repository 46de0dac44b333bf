"""A reward model that sees both images of a pair, as a baseline: it is asked in both orders."""

from __future__ import annotations

from collections.abc import Sequence

from actors.rewards.unified_reward import Comparison, UnifiedReward
from pipelines.reward.baselines.position_bias import TwoOrderPredictions, combine_orders
from pipelines.reward.data import Pair


class ComparingJudge:
    """Orders the images of a pair by a comparison."""

    def __init__(self, model: UnifiedReward) -> None:
        self._model = model

    def judge(self, pairs: Sequence[Pair]) -> TwoOrderPredictions:
        """Asks with the winner first and with the loser first. Answers that contradict each other are a tie."""
        winner_first = [Comparison(pair.image_w, pair.image_l, pair.prompt) for pair in pairs]
        loser_first = [Comparison(pair.image_l, pair.image_w, pair.prompt) for pair in pairs]
        answers = self._model.compare([*winner_first, *loser_first])
        return combine_orders(answers[: len(pairs)], answers[len(pairs) :])
