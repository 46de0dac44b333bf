"""Engines turn accumulated gradients into an optimizer step: plain torch here, actors/optim/deepspeed_engine.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from actors.optim.moments import Moments, state_of_parameters, with_options_of


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW's constants and the gradient clip."""

    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. `applied` is False if the gradient was not finite, or if there was none."""

    grad_norm: float  # before clipping, over all ranks; NaN without a gradient
    applied: bool


class Engine(Protocol):
    """Optimizes given parameters from their `.grad`. Every rank must call `step` equally often."""

    ranks: int
    parameters: list[nn.Parameter]

    def step(self, lr: float) -> StepResult:
        """Averages gradients over ranks, clips, steps with `lr`, and clears them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """This rank's optimizer state: tensors and numbers only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from `state_dict`. The parameters themselves must have been restored before.

        The options, such as the weight decay, stay those of this engine.
        """
        ...

    def fits(self, state: Mapping[str, Any], ranks: int) -> bool:
        """Whether `load_state_dict` takes this rank's state in a checkpoint that `ranks` ranks wrote."""
        ...

    def state_from(self, moments: Moments | None) -> dict[str, Any]:
        """What `load_state_dict` needs to go on with the moments of another engine or of other ranks.

        None: a state without steps. Raises ValueError if this engine cannot hold them.
        """
        ...


def adamw(parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """The optimizer of every engine. Its learning rate is set at each step."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=settings.betas, weight_decay=settings.weight_decay)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces every `.grad` by its mean over the ranks of the process group. A missing gradient counts as zero.

    Does nothing on one rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([parameter.numel() for parameter in parameters])
    for parameter, mean in zip(parameters, parts, strict=True):
        parameter.grad = mean.view_as(parameter)


class TorchEngine:
    """AdamW on every rank of the process group, or on one rank without a group. The state is equal on all ranks."""

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings) -> None:
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        self.parameters = list(parameters)
        self.settings = settings
        self.optimizer = adamw(self.parameters, settings)

    def step(self, lr: float) -> StepResult:
        """See Engine. Without a gradient, or if it is not finite, nothing changes."""
        average_gradients(self.parameters)
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
        """See Engine."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine."""
        self.optimizer.load_state_dict(with_options_of(self.optimizer, state))

    def fits(self, state: Mapping[str, Any], ranks: int) -> bool:
        """See Engine."""
        return len(state["param_groups"][0]["params"]) == len(self.parameters)

    def state_from(self, moments: Moments | None) -> dict[str, Any]:
        """See Engine."""
        return {"state": state_of_parameters(moments, self.parameters) if moments else {}}


class ModelEngine(Protocol):
    """A model with its optimizer on every rank. Calling it calls the model. A step may have several backward passes.

    To continue from a checkpoint, make an engine of the restored model and load the saved state into it. Weights and
    state are not sharded, so they fit any number of ranks. The methods are collectives: every rank must call them.
    """

    def __call__(self, *inputs: Any) -> Any:
        """The model's forward pass."""
        ...

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Adds the gradients of this rank's loss. The step takes their mean over ranks.

        `last`: no other backward pass follows before the step. All ranks do equally many of them for a step.
        """
        ...

    def step(self, lr: float) -> StepResult:
        """Clips, steps with `lr`, and clears the gradients. If the gradient is not finite, nothing changes."""
        ...

    def weights(self) -> list[Tensor]:
        """The trained parameters, on the CPU."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state after at least one step: tensors and numbers only."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state from `state_dict`, in an engine that has not stepped."""
        ...


class TorchModel(TorchEngine):
    """The plain ModelEngine: every rank has the whole model."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        super().__init__([parameter for parameter in model.parameters() if parameter.requires_grad], settings)
        self.model = model

    def __call__(self, *inputs: Any) -> Any:
        """See ModelEngine."""
        return self.model(*inputs)

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """See ModelEngine. Ranks exchange nothing before the step."""
        loss.backward()

    def weights(self) -> list[Tensor]:
        """See ModelEngine."""
        return [parameter.detach().cpu().clone() for parameter in self.parameters]
