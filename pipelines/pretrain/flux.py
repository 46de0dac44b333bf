# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Trains the tiny FLUX by flow matching in two phases.

x_s = (1 - s) x0 + s eps; the network predicts v = eps - x0 (rectified flow, as in FLUX.1).

1. Rendered scenes with true captions.
2. `mislabelled`: half of the rows are images that the model generated itself in many denoise steps, so that six denoise
   steps suffice afterwards. A fraction of all captions has a wrong relation. The resulting model places objects badly,
   as FLUX.1-dev does; this is the weakness that the reward is meant to correct.

Each phase runs on several workers of one thread each. Their gradients are averaged (Ray Train, gloo).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import FluxTransformer2DModel
from torch.nn import functional as F

from actors.optim.torch_engine import average_gradients
from conf import UserError
from pipelines.pretrain.architecture import transformer
from pipelines.pretrain.flux_batches import GUIDANCE, Encoders, FluxBatch, RenderedScenes
from pipelines.pretrain.flux_samples import SampledScenes
from pipelines.pretrain.latents import image_ids
from pipelines.pretrain.workers import Report, broadcast_progress, set_up_worker

BATCH = 64  # rows per worker
EMA = 0.9985
WARMUP = 200  # optimizer steps
REPORT_EVERY = 250  # optimizer steps


class RowSource(Protocol):
    """A source of training rows."""

    def batch(self, count: int) -> FluxBatch:
        """Draws rows."""
        ...


@dataclass(frozen=True)
class FluxPhase:
    """The settings of one phase, the same for every worker."""

    parts: Path  # folder of `scenes pretrain` that holds the encoders
    initial: Path | None  # weights to start from; None: from scratch
    out: Path  # folder of the averaged weights, written by rank 0
    seconds: float
    seed: int
    lr: float  # at the beginning
    final_lr: float  # at the end
    distill: bool  # half of the rows are images that `initial` generated in many denoise steps
    mislabelled_fraction: float
    compile: bool


def train_phase(config: dict[str, Any]) -> None:
    """Runs `config["phase"]` on one Ray Train worker. Rank 0 saves the weights."""
    phase, (rank, report) = config["phase"], set_up_worker(config)
    model = run_phase(phase, rank, report)
    if rank == 0:
        model.save_pretrained(phase.out)


def run_phase(phase: FluxPhase, rank: int, report: Report) -> FluxTransformer2DModel:
    """Trains one phase and returns the moving average of the weights."""
    torch.manual_seed(phase.seed)  # the same weights on every rank
    model = FluxTransformer2DModel.from_pretrained(phase.initial) if phase.initial else transformer()
    start, seed = time.monotonic(), 1000 * phase.seed + rank  # other rows on every rank
    encoders = Encoders.load(phase.parts, "decoder" if phase.distill else "vae")
    sources: list[RowSource] = [RenderedScenes(encoders, phase.mislabelled_fraction, seed)]
    if phase.distill:
        sources.append(sample_scenes(encoders, phase, seed, report))
    remaining = max(phase.seconds - (time.monotonic() - start), 1.0)
    return fit(model, sources, phase, remaining, report)


def sample_scenes(encoders: Encoders, phase: FluxPhase, seed: int, report: Report) -> SampledScenes:
    """Generates images with the weights `phase.initial` for a third of the time of the phase.

    Raises UserError if no image shows the objects asked for.
    """
    teacher = FluxTransformer2DModel.from_pretrained(phase.initial).eval()
    sampled, start = SampledScenes(encoders, teacher, phase.mislabelled_fraction, seed), time.monotonic()
    while time.monotonic() - start < phase.seconds / 3:
        sampled.sample()
        if sampled.num_sampled % 1280 == 0:
            report(f"generated {sampled.num_sampled} images in many steps, {len(sampled)} with the right objects")
    if not len(sampled):
        raise UserError(
            f"none of the {sampled.num_sampled} images that FLUX generated shows the objects asked for, so there is "
            "nothing to distill: the phase on true captions was too short; raise pretrain.minutes"
        )
    return sampled


def fit(
    model: FluxTransformer2DModel, sources: Sequence[RowSource], phase: FluxPhase, seconds: float, report: Report
) -> FluxTransformer2DModel:
    """Trains by flow matching for `seconds`, on equally many rows of each source.

    The learning rate falls from phase.lr to phase.final_lr along a cosine.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    velocity = torch.compile(_velocity) if phase.compile else _velocity
    model.train()
    start, step, running, progress = time.monotonic(), 0, 0.0, 0.0
    while (progress := broadcast_progress((time.monotonic() - start) / seconds)) < 1.0:
        for group in optimizer.param_groups:
            cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
            group["lr"] = min(1.0, step / WARMUP) * (phase.final_lr + (phase.lr - phase.final_lr) * cosine)
        rows = FluxBatch.joined([source.batch(BATCH // len(sources)) for source in sources])
        s = torch.sigmoid(torch.randn(len(rows)) * 1.15 + 1.0)  # [B]
        mixed = torch.lerp(rows.latents, rows.noise, s[:, None, None])
        loss = F.mse_loss(velocity(model, mixed, s, rows.prompt_embeds, rows.pooled_embeds), rows.noise - rows.latents)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(list(model.parameters()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step, running = step + 1, 0.99 * running + 0.01 * loss.item()
        if step % REPORT_EVERY == 0:
            report(f"optimizer step {step}, {progress:.0%} of {seconds:.0f} s, loss {running / (1 - 0.99**step):.4f}")
    model.load_state_dict(average.module.state_dict())
    return model.eval()


def _velocity(
    model: FluxTransformer2DModel,
    latents: torch.Tensor,  # [B, S, C]
    s: torch.Tensor,  # [B]
    prompt_embeds: torch.Tensor,  # [B, L, D]
    pooled_embeds: torch.Tensor,  # [B, D]
) -> torch.Tensor:
    return model(
        hidden_states=latents,
        timestep=s,
        guidance=torch.full_like(s, GUIDANCE),
        pooled_projections=pooled_embeds,
        encoder_hidden_states=prompt_embeds,
        txt_ids=torch.zeros(prompt_embeds.shape[1], 3),
        img_ids=image_ids(latents),
        return_dict=False,
    )[0]
