"""The moving average of the LoRA weights over policy versions. Held-out evaluation and the export use it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class MovingAverage:
    """ema <- d ema + (1 - d) lora, once for each policy version.

    d = min(decay, (1 + version) / (10 + version)) is small at first, so that the untrained start is soon forgotten.
    """

    def __init__(self, lora: Mapping[str, torch.Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {key: value.clone() for key, value in lora.items()}

    @torch.no_grad()
    def update(self, lora: Mapping[str, torch.Tensor], version: int) -> None:
        """Adds the weights of a policy version."""
        decay = min(self.decay, (1 + version) / (10 + version))
        for key, value in lora.items():
            self.weights[key].lerp_(value, 1 - decay)
