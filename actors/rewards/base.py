"""The interface of every reward: SpatialScore, those of this package, and a reward of your own."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

import numpy as np

from actors.types import Scores


class Reward(Protocol):
    """Scores a batch of images under their prompts. Knows nothing of Ray: `actors/workers` serves it."""

    def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores | Awaitable[Scores]:
        """Scores image i, uint8 [H, W, 3], under prompt i; higher is better.

        NaN marks an image without a score: the statistics of its group leave it out. A reward that waits for a remote
        service may be a coroutine. Raises InputError (a ValueError) for a prompt that it cannot
        score, and what `check_inputs` of `actors.reward_input` raises.
        """
        ...
