"""What turns accumulated gradients into an optimizer step: plain torch on one rank, else `actors.deepspeed_engine`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW's constants and the gradient clip."""

    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. `applied` is False where the gradient was not finite or there was none."""

    grad_norm: float  # before clipping, over all ranks; NaN without a gradient
    applied: bool


class Engine(Protocol):
    """Consumes the `.grad` of the parameters it was made with; every rank must call `step` equally often."""

    ranks: int

    def step(self, lr: float) -> StepResult:
        """Averages gradients over ranks, clips, steps with `lr`, and clears them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """This rank's optimizer state: tensors and numbers only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave; the parameters themselves must have been restored before."""
        ...


def adamw(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """The optimizer of every engine; its learning rate is set at each step."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay)


class TorchEngine:
    """AdamW on one rank."""

    ranks = 1

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> None:
        self.parameters = list(parameters)
        self.settings = settings
        self.optimizer = adamw(self.parameters, settings)

    def step(self, lr: float) -> StepResult:
        """See Engine. A gradient that is not finite, or missing altogether, changes nothing."""
        if all(parameter.grad is None for parameter in self.parameters):
            return StepResult(math.nan, applied=False)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))
        applied = math.isfinite(norm)
        if applied:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(norm, applied)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
