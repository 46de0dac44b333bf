"""What the learner measures during an optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.grpo.loss import PolicyLoss


@dataclass(frozen=True)
class OptimizerStepMetrics:
    """One optimizer step on this rank. loss, kl, ratio_mean and clip_fraction are means over `rows`."""

    loss: float
    kl: float
    base_distance: float  # mean (v - v_base)^2 over `regularizer_rows`; 0 without the base regularizer
    ratio_mean: float
    ratio_drift: float  # max |ratio - 1| over rows that the same weights sampled and replayed; NaN without such rows
    clip_fraction: float
    grad_norm: float
    lr: float
    rows: int  # (sample, denoise step) pairs
    regularizer_rows: int
    samples: int
    applied: bool  # False: there was no gradient, or it was not finite, and nothing changed


class StepTotals:
    """Sums over the rows of one optimizer step. They stay on the device, so accumulating never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, device=device)  # loss, kl, ratio, clipped
        self.rows = 0
        self.samples = 0

    def add(self, loss: torch.Tensor, kl: torch.Tensor, terms: PolicyLoss) -> None:
        """Adds the rows of one batch. All tensors are [R] and have no gradient."""
        self.sums += torch.stack((loss, kl, terms.ratio, terms.clipped.float())).sum(dim=1)
        self.rows += len(loss)

    def means(self) -> list[float]:
        """Means over rows of loss, KL, ratio and clipped; zeros without rows."""
        return (self.sums / max(self.rows, 1)).tolist()


def weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Sum w_i v_i / sum w_i; 0 if all weights are 0."""
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / max(sum(weights), 1)
