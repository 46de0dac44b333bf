"""The exact checker as a reward: what GenEval's detector rules are for photographs, it is for the scenes world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.reward_input import check_inputs
from actors.types import Scores
from pipelines.scenes.checker import check
from pipelines.scenes.grammar import parse


class RulesReward:
    """Scores the fraction of a prompt's objects and relations that the image shows. Each counts as one."""

    def __init__(self, relations: bool = True) -> None:
        """Without `relations`, only the objects count."""
        self._relations = relations

    def score(self, images: np.ndarray, prompts: Sequence[str]) -> Scores:
        """Scores image i against prompt i. `images`: uint8 [B, 64, 64, 3].

        Raises ValueError for a prompt that is not of the scenes grammar, and what `check_inputs` raises.
        """
        check_inputs(images, prompts)
        fractions: list[float] = []
        for image, prompt in zip(images, prompts, strict=True):
            verdict = check(image, parse(prompt).relations)
            satisfied = list(verdict.present.values())
            if self._relations:
                satisfied += [outcome == "right" for outcome in verdict.outcomes]
            fractions.append(sum(satisfied) / len(satisfied))
        return Scores.deterministic(fractions)
