"""The rewards by rules as baselines: by an OWLv2, or in three dimensions by a GroundingDINO and a Depth-Anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from actors.rewards.base import Reward
from actors.types import Prompt, Relation, Scores
from conf import UserError
from conf.baselines import KIND_OF_RULES
from conf.detector import DetectorSettings
from conf.rewards import RewardTerm
from conf.settings import Settings
from pipelines.common.readable_relations import relations_from_boxes, relations_in_depth
from pipelines.reward.data import Pair
from pipelines.reward.predictions import PairPredictions

Relations = Mapping[str, tuple[Relation, ...]]
"""Prompt -> its relations, in words that the rules know."""


class RulesJudge:
    """Orders the images of a pair by a reward by rules. There is no answer for relations that the rules cannot read."""

    def __init__(
        self, open_reward: Callable[[Relations], Reward], read: Callable[[Sequence[Prompt]], Relations]
    ) -> None:
        """`open_reward` makes the reward for some prompts. `read` raises UserError for a prompt that it cannot read."""
        self._relations: dict[str, tuple[Relation, ...]] = {}  # the reward holds it, and it grows with each chunk
        self._reward, self._read = open_reward(self._relations), read

    def judge(self, pairs: Sequence[Pair]) -> PairPredictions:
        """Margins are score differences."""
        readable = [number for number, pair in enumerate(pairs) if self._can_read(pair)]
        images = [image for number in readable for image in (pairs[number].image_w, pairs[number].image_l)]
        prompts = [pairs[number].prompt for number in readable for _ in range(2)]
        margin = np.full(len(pairs), np.nan, np.float32)
        if readable:
            scores = self._reward.score(images, prompts)
            assert isinstance(scores, Scores), "rules wait for no service"
            by_pair = scores.mu.reshape(-1, 2)
            margin[readable] = by_pair[:, 0] - by_pair[:, 1]
        return PairPredictions(margin, np.zeros(len(pairs), bool))

    def _can_read(self, pair: Pair) -> bool:
        try:
            self._relations.update(self._read([Prompt(pair.pair_id, pair.prompt, pair.relations)]))
        except UserError:
            return False
        return True


def open_rules_baseline(name: str, settings: Settings, device: str) -> RulesJudge:
    """Opens a baseline of KIND_OF_RULES in this process, with the settings of the same reward."""
    cfg, rules = settings.baselines, rules_settings(name, settings)
    if isinstance(rules, DetectorSettings):
        from actors.rewards.detector import DetectorReward

        placed = replace(rules, gpus=cfg.gpus, threads=cfg.threads)
        return RulesJudge(lambda relations: DetectorReward(placed, relations), relations_from_boxes)
    from actors.rewards.depth_rules import DepthRulesReward

    return RulesJudge(
        lambda relations: DepthRulesReward(rules, device, relations), lambda one: relations_in_depth(one, name)
    )


def rules_settings(name: str, settings: Settings) -> DetectorSettings | RewardTerm:
    """The settings of the reward of this kind, with the model that `baselines.models` names."""
    model = settings.baselines.models.get(name, "")
    rules = settings.detector if KIND_OF_RULES[name] == "detector" else _depth_rules(settings)
    return replace(rules, model=model) if model else rules


def _depth_rules(settings: Settings) -> RewardTerm:
    return settings.used_rewards().get("depth_rules") or RewardTerm()
