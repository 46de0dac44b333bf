"""One worker's part of fitting SpatialScore: pairs in, an optimizer step out. No Ray here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from actors.engine import Engine, OptimizerSettings, TorchEngine
from actors.spatialscore import SpatialScore, pair_loss
from conf.reward import RewardSettings
from pipelines.reward.data import Pair, compare, mirrored

BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class FitStep:
    """What one optimizer step saw on this worker."""

    loss: float  # mean over comparisons
    accuracy: float  # share of comparisons in the right order
    grad_norm: float


def learning_rate(settings: RewardSettings, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr_fraction` of the rate."""
    warmup = max(1, round(settings.warmup_fraction * steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.lr * (settings.final_lr_fraction + (1.0 - settings.final_lr_fraction) * cosine)


class RewardFitter:
    """SpatialScore with its optimizer, on one of `workers` ranks whose gradients are averaged."""

    def __init__(self, model: SpatialScore, settings: RewardSettings, device: torch.device, rank: int = 0) -> None:
        self.model = model.to(device).train()
        self.settings = settings
        self.device = device
        self.rank = rank
        self.engine = _engine(list(self.model.trainable().values()), settings)
        shared = settings.engine == "torch" and dist.is_initialized()
        self._forward: nn.Module = DistributedDataParallel(self.model) if shared else self.model

    def step(self, pairs: Sequence[Pair], number: int, steps: int) -> FitStep:
        """Optimizer step `number` of `steps` on this rank's pairs."""
        rng = np.random.default_rng([self.settings.seed, number, self.rank])
        if self.settings.mirror:
            flips = rng.random(len(pairs)) < 0.5
            pairs = [mirrored(pair) if flip else pair for pair, flip in zip(pairs, flips, strict=True)]
        wanted = compare(pairs, self.settings.both_prompts)
        batch = self.model.processor(wanted.images, wanted.prompts, wanted.image_index).to(self.device)
        mu, sigma = self._forward(batch)
        w, l = list(wanted.winners), list(wanted.losers)  # noqa: E741
        noise = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        losses = pair_loss(
            self.settings.loss, mu[w], sigma[w], mu[l], sigma[l], draws=self.settings.sigma_draws, generator=noise
        )
        # Per pair, not per comparison: ranks hold equally many pairs, so the average over ranks is the whole batch's.
        (losses.sum() / len(pairs)).backward()
        result = self.engine.step(learning_rate(self.settings, number, steps))
        right = (mu[w] > mu[l]).float().mean().item()
        return FitStep(losses.mean().item(), right, result.grad_norm)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The trained parameters."""
        return {name: value.detach().cpu().clone() for name, value in self.model.trainable().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restores the trained parameters. Raises KeyError where one is missing."""
        for name, parameter in self.model.trainable().items():
            parameter.copy_(state[name])


def _engine(parameters: list[nn.Parameter], settings: RewardSettings) -> Engine:
    optimizer = OptimizerSettings(BETAS, settings.weight_decay, settings.max_grad_norm)
    if settings.engine == "torch":
        return TorchEngine(parameters, optimizer)
    from actors.deepspeed_engine import DeepSpeedEngine  # kept out of the path that does not ask for it

    return DeepSpeedEngine(parameters, optimizer, settings.zero_stage)
