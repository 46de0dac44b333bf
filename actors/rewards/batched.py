"""Rewards that score images with a model, a batch of images at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from actors.reward_input import check_inputs
from actors.types import Scores


class BatchedReward(ABC):
    """A model that scores each image under its prompt. Sigma is 0."""

    batch_images: int
    """Images of one forward pass."""

    def score(self, images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        """See Reward. Images i to i + batch_images are in the same forward pass."""
        check_inputs(images, prompts)
        batch = self.batch_images
        parts = [
            self.score_batch(list(images[first : first + batch]), prompts[first : first + batch])
            for first in range(0, len(prompts), batch)
        ]
        return Scores.deterministic(np.concatenate([np.zeros(0, np.float32), *parts]).tolist())

    @abstractmethod
    def score_batch(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """The scores of one forward pass  # [B]. Image i, uint8 [H, W, 3], is scored under prompt i."""

    def truncated(self, prompts: Sequence[str]) -> np.ndarray:
        """Whether the model reads only the start of each prompt  # [B] bool."""
        return np.zeros(len(prompts), bool)
