"""One optimizer step of SpatialScore on one worker. Imports no Ray."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from actors.optim.torch_engine import ModelEngine, OptimizerSettings, TorchModel
from actors.spatialscore import ScoreBatch, SpatialScore, pair_loss
from actors.spatialscore.flops import FlopsCounter
from conf.reward import RewardSettings
from pipelines.reward.data import Comparisons, Pair, compare, mirrored
from pipelines.reward.sampler import RankInfo
from pipelines.reward.train_metrics import TrainMetrics

BETAS = (0.9, 0.98)
ONE_RANK = RankInfo(0, 1)


@dataclass(frozen=True)
class PreparedPass:
    """The input of one forward and backward pass, on the CPU."""

    pairs: int  # 0: a pass without a pair, whose loss has weight 0
    shown: Sequence[Pair]  # without images
    comparisons: Comparisons  # without images
    batch: ScoreBatch
    noise: torch.Tensor | None  # [draws, C], for the loss `sampled`


@dataclass(frozen=True)
class PreparedStep:
    """The input of one optimizer step on this worker, on the CPU."""

    step: int
    passes: Sequence[PreparedPass]  # equally many on all workers


@dataclass(frozen=True)
class _Pass:
    """What one forward and backward pass leaves for the metrics."""

    pairs: int
    compared: Sequence[Pair]  # the pair of each comparison
    margins: torch.Tensor  # mu_w - mu_l  # [C]
    losses: torch.Tensor  # [C]
    sigma: torch.Tensor  # [R]
    flops: float


@dataclass(frozen=True)
class FitStep:
    """The result of one optimizer step on this worker."""

    loss: float  # mean over comparisons
    accuracy: float  # share of comparisons in the right order
    grad_norm: float  # before clipping
    lr: float


def learning_rate(settings: RewardSettings, step: int, steps: int) -> float:
    """Learning rate of optimizer step `step` of `steps`: linear warm-up, then a cosine to `final_lr_fraction` of it."""
    warmup = max(1, round(settings.warmup_fraction * steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return settings.lr * (settings.final_lr_fraction + (1.0 - settings.final_lr_fraction) * cosine)


class RewardFitter:
    """SpatialScore with its optimizer, on one of several ranks. The engine averages their gradients."""

    def __init__(
        self, model: SpatialScore, settings: RewardSettings, device: torch.device, rank: RankInfo = ONE_RANK
    ) -> None:
        self.model = model  # the engine may shard its weights: use `state_dict` to read them
        self.processor = model.processor
        self.settings = settings
        self.device = device
        self.rank = rank
        blank = np.zeros((*self.processor.bounds.target(64, 64), 3), np.uint8)
        self._no_pair = Pair("", "blank", None, blank, blank, "generated", 0)
        """Takes part in a step in which a rank has no pair, because every rank must. Its loss has weight 0."""
        self._flops = FlopsCounter.of(model)
        self._names = list(model.trainable())
        self.engine = _make_engine(model.to(device).train(), settings)

    def prepare(self, pairs: Sequence[Pair], step: int, *, fitted: bool = False) -> PreparedStep:
        """Makes the input of optimizer step `step` from this rank's pairs. `fitted`: see `ScoreProcessor`.

        Runs on the CPU, so that a thread can prepare the next step. There may be no pairs, if none of this rank's rows
        could be read: then the gradient is zero.
        """
        count = self.settings.passes(self.rank.ranks)
        ends = [len(pairs) * number // count for number in range(count + 1)]
        return PreparedStep(step, [self._prepare_pass(pairs[a:b], step, fitted) for a, b in pairwise(ends)])

    def _prepare_pass(self, pairs: Sequence[Pair], step: int, fitted: bool) -> PreparedPass:
        """The input of a pass. Mirrors and noise depend on pair and step only, so the passes may be cut anywhere."""
        count, pairs = len(pairs), self._mirror_half(pairs or [self._no_pair], step)
        comparisons = compare(pairs, self.settings.both_prompts)
        batch = self.processor(comparisons.images, comparisons.prompts, comparisons.image_index, fitted=fitted)
        if self.device.type == "cuda":
            batch = batch.pinned()
        noise = self._noise(pairs, comparisons, step) if self.settings.loss == "sampled" else None
        shown = [pair.without_images for pair in pairs]
        return PreparedPass(count, shown, comparisons.without_images, batch, noise)

    def optimizer_step(
        self, pairs: Sequence[Pair], step: int, steps: int, metrics: TrainMetrics | None = None
    ) -> FitStep:
        """Does optimizer step `step` of `steps` on this rank's pairs, and adds it to `metrics`."""
        return self.learn(self.prepare(pairs, step), steps, metrics)

    def learn(self, prepared: PreparedStep, steps: int, metrics: TrainMetrics | None = None) -> FitStep:
        """Does an optimizer step of `steps`, and adds it to `metrics`. The gradients of its passes add up."""
        if self.model.config.lora_dropout:  # a checkpoint does not hold the state of torch's generator
            torch.manual_seed(_random_bits(self.settings.seed, prepared.step, self.rank.rank, "dropout"))
        final = len(prepared.passes) - 1
        done = [self._pass(each, last=number == final) for number, each in enumerate(prepared.passes)]
        lr = learning_rate(self.settings, prepared.step, steps)
        result = self.engine.step(lr)
        counted = [each for each in done if each.pairs] or done
        losses = torch.cat([each.losses for each in counted])
        margins = torch.cat([each.margins for each in counted])
        if metrics is not None and counted[0].pairs:
            compared = [pair for each in counted for pair in each.compared]
            metrics.add(compared, margins, losses, torch.cat([each.sigma for each in counted]))
            metrics.pairs += sum(each.pairs for each in counted)
            metrics.flops += sum(each.flops for each in counted)
        return FitStep(losses.mean().item(), (margins > 0).float().mean().item(), result.grad_norm, lr)

    def _pass(self, prepared: PreparedPass, last: bool) -> _Pass:
        """Forward and backward pass of some pairs. Its activations are free when it returns."""
        comparisons, batch = prepared.comparisons, prepared.batch.to(self.device)
        mu, sigma = self.engine(batch)
        w, l = list(comparisons.winners), list(comparisons.losers)  # noqa: E741
        noise = None if prepared.noise is None else prepared.noise.to(self.device)
        losses = pair_loss(self.settings.loss, mu[w], sigma[w], mu[l], sigma[l], noise=noise)
        # The engine averages over ranks. Divided by the pairs of the whole batch, that is the batch's loss per pair.
        weight = self.rank.ranks / self.settings.batch_size if prepared.pairs else 0.0
        self.engine.backward(losses.sum() * weight, last=last)
        compared = [prepared.shown[i] for i in comparisons.pairs]
        flops = self._flops.training(batch)
        return _Pass(prepared.pairs, compared, (mu[w] - mu[l]).detach(), losses.detach(), sigma.detach(), flops)

    @torch.no_grad()
    def margins(self, pairs: Sequence[Pair]) -> np.ndarray:
        """mu_w - mu_l of pairs whose images were resized by `bounds`  # [N].

        Every rank must call it equally often: with ZeRO-3 the forward pass gathers the weights of all ranks.
        """
        comparisons = compare(pairs or [self._no_pair], both_prompts=False)
        batch = self.processor(comparisons.images, comparisons.prompts, comparisons.image_index, fitted=True)
        self.model.eval()
        mu, _ = self.engine(batch.to(self.device))
        self.model.train()
        w, l = list(comparisons.winners), list(comparisons.losers)  # noqa: E741
        return (mu[w] - mu[l]).float().cpu().numpy()[: len(pairs)]

    def _mirror_half(self, pairs: Sequence[Pair], step: int) -> Sequence[Pair]:
        """Mirrors a random half, if the settings ask for it. The choice depends on pair and step only, not on ranks."""
        if not self.settings.mirror:
            return pairs
        return [mirrored(pair) if _random_bits(self.settings.seed, step, pair.pair_id) & 1 else pair for pair in pairs]

    def _noise(self, pairs: Sequence[Pair], comparisons: Comparisons, step: int) -> torch.Tensor:
        """Standard normal draws of every comparison  # [N, C]. They depend on pair and step only, not on ranks."""
        columns: list[torch.Tensor] = []
        for number, pair in enumerate(pairs):
            generator = torch.Generator().manual_seed(_random_bits(self.settings.seed, step, pair.pair_id, "noise"))
            shape = (self.settings.sigma_draws, comparisons.pairs.count(number))
            columns.append(torch.randn(shape, generator=generator))
        return torch.cat(columns, dim=1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The trained parameters by name. Every rank must call it."""
        return dict(zip(self._names, self.engine.weights(), strict=True))


@torch.no_grad()
def restore(model: SpatialScore, trained: dict[str, torch.Tensor]) -> SpatialScore:
    """Copies what `RewardFitter.state_dict` returned into the model. Raises KeyError if a parameter is missing."""
    for name, parameter in model.trainable().items():
        parameter.copy_(trained[name])
    return model


def _random_bits(*parts: object) -> int:
    """63 pseudo-random bits that depend on the parts only."""
    return int.from_bytes(hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()) >> 1


def _make_engine(model: SpatialScore, settings: RewardSettings) -> ModelEngine:
    optimizer = OptimizerSettings(BETAS, settings.weight_decay, settings.max_grad_norm)
    if settings.engine == "torch":
        return TorchModel(model, optimizer)
    from actors.optim.deepspeed_engine import DeepSpeedModel  # not needed by the engine torch

    return DeepSpeedModel(model, optimizer, settings.zero_stage, settings.param_persistence_threshold)
