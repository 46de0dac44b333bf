"""One worker's part of fitting SpatialScore: pairs in, an optimizer step out. No Ray here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from actors.optim.torch_engine import ModelEngine, OptimizerSettings, TorchModel
from actors.spatialscore import SpatialScore, pair_loss
from actors.spatialscore.flops import FlopsCounter
from conf.reward import RewardSettings
from pipelines.reward.data import Comparisons, Pair, compare, mirrored
from pipelines.reward.sampler import RankInfo
from pipelines.reward.train_metrics import TrainMetrics

BETAS = (0.9, 0.98)
ALONE = RankInfo(0, 1)


@dataclass(frozen=True)
class FitStep:
    """What one optimizer step saw on this worker."""

    loss: float  # mean over comparisons
    accuracy: float  # share of comparisons in the right order
    grad_norm: float
    lr: float


def learning_rate(settings: RewardSettings, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to `final_lr_fraction` of the rate."""
    warmup = max(1, round(settings.warmup_fraction * steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.lr * (settings.final_lr_fraction + (1.0 - settings.final_lr_fraction) * cosine)


class RewardFitter:
    """SpatialScore with its optimizer, on one of several ranks whose gradients the engine averages."""

    def __init__(
        self, model: SpatialScore, settings: RewardSettings, device: torch.device, rank: RankInfo = ALONE
    ) -> None:
        self.model = model  # its weights may be sharded: `state_dict` has them whole
        self.processor = model.processor
        self.arithmetic = FlopsCounter.of(model)
        self.settings = settings
        self.device = device
        self.rank = rank
        self.names = list(model.trainable())
        self.engine = _engine(model.to(device).train(), settings)

    def step(self, pairs: Sequence[Pair], number: int, steps: int, tally: TrainMetrics | None = None) -> FitStep:
        """Optimizer step `number` of `steps` on this rank's pairs, which `tally` counts."""
        if self.settings.mirror:
            pairs = [mirrored(pair) if self._flips(pair, number) else pair for pair in pairs]
        wanted = compare(pairs, self.settings.both_prompts)
        batch = self.processor(wanted.images, wanted.prompts, wanted.image_index).to(self.device)
        mu, sigma = self.engine(batch)
        w, l = list(wanted.winners), list(wanted.losers)  # noqa: E741
        noise = self._noise(pairs, wanted, number) if self.settings.loss == "sampled" else None
        losses = pair_loss(self.settings.loss, mu[w], sigma[w], mu[l], sigma[l], noise=noise)
        # Per pair, not per comparison, and of the whole batch: the engine's mean over ranks is then the batch's loss.
        self.engine.backward(losses.sum() * self.rank.ranks / self.settings.batch_size)
        lr = learning_rate(self.settings, number, steps)
        result = self.engine.step(lr)
        margins = (mu[w] - mu[l]).detach()
        if tally is not None:
            tally.add([pairs[i] for i in wanted.pairs], margins, losses.detach(), sigma.detach())
            tally.pairs += len(pairs)
            tally.flops += self.arithmetic.training(batch)
        return FitStep(losses.mean().item(), (margins > 0).float().mean().item(), result.grad_norm, lr)

    def _flips(self, pair: Pair, number: int) -> bool:
        """By pair and step alone, so that the number of ranks does not matter."""
        return bool(_draw(self.settings.seed, number, pair.pair_id) & 1)

    def _noise(self, pairs: Sequence[Pair], wanted: Comparisons, number: int) -> torch.Tensor:
        """Standard normal draws for every comparison, by pair and step alone  # [N, C]."""
        columns = []
        for place, pair in enumerate(pairs):
            own = torch.Generator().manual_seed(_draw(self.settings.seed, number, pair.pair_id, "noise"))
            columns.append(torch.randn((self.settings.sigma_draws, wanted.pairs.count(place)), generator=own))
        return torch.cat(columns, dim=1).to(self.device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The trained parameters, by name. Every rank must call it."""
        return dict(zip(self.names, self.engine.weights(), strict=True))


@torch.no_grad()
def restore(model: SpatialScore, trained: dict[str, torch.Tensor]) -> SpatialScore:
    """The model, with what `RewardFitter.state_dict` gave. Raises KeyError where a parameter is missing."""
    for name, parameter in model.trainable().items():
        parameter.copy_(trained[name])
    return model


def _draw(*parts: object) -> int:
    """63 bits that depend on the parts alone."""
    return int.from_bytes(hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()) >> 1


def _engine(model: SpatialScore, settings: RewardSettings) -> ModelEngine:
    optimizer = OptimizerSettings(BETAS, settings.weight_decay, settings.max_grad_norm)
    if settings.engine == "torch":
        return TorchModel(model, optimizer)
    from actors.optim.deepspeed_engine import DeepSpeedModel  # kept out of the path that does not ask for it

    return DeepSpeedModel(model, optimizer, settings.zero_stage, settings.param_persistence_threshold)
