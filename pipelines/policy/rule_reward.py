"""The exact checker as a reward: what rule rewards of GenEval's kind are to photographs, it is to the scenes world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.types import Scores
from pipelines.scenes.checker import check
from pipelines.scenes.grammar import parse


class RulesReplica:
    """Scores the share of a prompt's objects that are there and of its relations that hold, each counting one."""

    def __init__(self, relations: bool = True) -> None:
        """Without `relations` only the objects count."""
        self._relations = relations

    def score(self, images: np.ndarray, texts: Sequence[str]) -> Scores:
        """Scores image i against sentence i. `images`: uint8 [B, 64, 64, 3]. Raises ValueError for other sentences."""
        shares = []
        for image, text in zip(images, texts, strict=True):
            verdict = check(image, parse(text).relations)
            parts = list(verdict.present.values())
            if self._relations:
                parts += [outcome == "right" for outcome in verdict.outcomes]
            shares.append(sum(parts) / len(parts))
        return Scores.deterministic(shares)
