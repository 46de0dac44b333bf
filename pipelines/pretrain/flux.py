# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Trains the tiny FLUX by flow matching, in two phases: to draw what is asked, then in few steps and a little astray.

x_s = (1 - s) x0 + s eps, the network predicts v = eps - x0 (rectified flow, as FLUX.1). The first phase sees rendered
scenes under true captions. The second, half of whose rows the model has drawn itself in many steps, straightens its
paths so that six steps suffice, and gives a share of all rows a caption with a wrong relation. What remains places
objects badly: the weakness of its big sister that the reward is there to mend.

Every phase runs on several workers of one thread each, their gradients averaged (Ray Train, gloo).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch.nn import functional as F

from actors.optim.torch_engine import average_gradients
from actors.types import Prompt
from pipelines.pretrain.architecture import TEXT_TOKENS, transformer
from pipelines.pretrain.flux_batches import GUIDANCE, Encoders, FluxBatch, RenderedScenes, SampledScenes
from pipelines.pretrain.workers import Report, broadcast_progress, set_up_worker
from pipelines.scenes.checker import Verdict, check
from pipelines.scenes.render import SIZE

BATCH = 64  # rows a worker
EMA = 0.9985
WARMUP = 200  # steps


class RowSource(Protocol):
    """Where a phase takes its rows from."""

    def batch(self, count: int) -> FluxBatch:
        """Draws rows."""
        ...


@dataclass(frozen=True)
class FluxPhase:
    """One phase, as every worker is given it."""

    parts: Path  # of `scenes pretrain`: the encoders lie there
    initial: Path | None  # weights to begin with; None: anew
    out: Path  # where rank 0 saves the averaged weights
    seconds: float
    seed: int
    lr: tuple[float, float]  # at the beginning and at the end
    distil: bool  # half of the rows drawn by `initial` in many steps
    wrong_captions: float
    compile: bool


def train_phase(loop: dict[str, Any]) -> None:
    """A Ray Train worker's part of `loop["phase"]`; `loop["lines"]` is told of progress."""
    phase, (rank, report) = loop["phase"], set_up_worker(loop)
    model = run_phase(phase, rank, report)
    if rank == 0:
        model.save_pretrained(phase.out)


def run_phase(phase: FluxPhase, rank: int, report: Report) -> FluxTransformer2DModel:
    """Trains one phase and returns the weights' moving average."""
    torch.manual_seed(phase.seed)  # the same weights on every rank
    model = FluxTransformer2DModel.from_pretrained(phase.initial) if phase.initial else transformer()
    start, seed = time.monotonic(), 1000 * phase.seed + rank  # every rank draws rows of its own
    encoders = Encoders.load(phase.parts, "decoder" if phase.distil else "vae")
    sources: list[RowSource] = [RenderedScenes(encoders, phase.wrong_captions, seed)]
    if phase.distil:
        assert phase.initial is not None
        sources.append(_drawn(encoders, phase, seed, report))
    left = max(phase.seconds - (time.monotonic() - start), 1.0)  # a short phase may be over before its rows are drawn
    return fit(model, sources, left, phase.lr, phase.compile, report)


def fit(
    model: FluxTransformer2DModel,
    sources: Sequence[RowSource],
    seconds: float,
    lr: tuple[float, float],
    compiled: bool,
    report: Report,
) -> FluxTransformer2DModel:
    """Flow matching on equal shares of rows from each source; lr falls from lr[0] to lr[1] along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr[0], betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    velocity = torch.compile(_velocity) if compiled else _velocity
    model.train()
    start, step, running, progress = time.monotonic(), 0, 0.0, 0.0
    while (progress := broadcast_progress((time.monotonic() - start) / seconds)) < 1.0:
        for group in optimizer.param_groups:
            cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
            group["lr"] = min(1.0, step / WARMUP) * (lr[1] + (lr[0] - lr[1]) * cosine)
        rows = FluxBatch.joined([source.batch(BATCH // len(sources)) for source in sources])
        s = torch.sigmoid(torch.randn(len(rows)) * 1.15 + 1.0)
        mixed = torch.lerp(rows.latents, rows.noise, s[:, None, None])
        loss = F.mse_loss(velocity(model, mixed, s, rows.prompt_embeds, rows.pooled_embeds), rows.noise - rows.latents)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(list(model.parameters()))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step, running = step + 1, 0.99 * running + 0.01 * loss.item()
        if step % 250 == 0:
            report(f"step {step}, {progress:.0%} of {seconds:.0f} s, loss {running / (1 - 0.99**step):.4f}")
    model.load_state_dict(average.module.state_dict())
    return model.eval()


def judge(pipeline: FluxPipeline, prompts: Sequence[Prompt], seed: int, steps: int = 6) -> list[Verdict]:
    """Draws each prompt once with diffusers' own pipeline and has the exact checker judge it."""
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        [prompt.text for prompt in prompts],
        height=SIZE,
        width=SIZE,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        max_sequence_length=TEXT_TOKENS,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
        output_type="np",
    ).images
    pixels = (images * 255).round().astype(np.uint8)
    return [check(image, prompt.relations) for image, prompt in zip(pixels, prompts, strict=True)]


def summary(verdicts: Sequence[Verdict]) -> str:
    """Object presence and relation outcomes of many verdicts in one line."""
    present = [value for verdict in verdicts for value in verdict.present.values()]
    outcomes = [value for verdict in verdicts for value in verdict.outcomes]
    shares = ", ".join(f"{name} {outcomes.count(name) / len(outcomes):.3f}" for name in ("right", "reversed", "other"))
    return f"objects present {sum(present) / len(present):.3f}, relations {shares}"


def _velocity(
    model: FluxTransformer2DModel,
    latents: torch.Tensor,  # [B, S, C]
    s: torch.Tensor,  # [B]
    prompt_embeds: torch.Tensor,  # [B, L, D]
    pooled_embeds: torch.Tensor,  # [B, D]
) -> torch.Tensor:
    side = math.isqrt(latents.shape[1])
    return model(
        hidden_states=latents,
        timestep=s,
        guidance=torch.full_like(s, GUIDANCE),
        pooled_projections=pooled_embeds,
        encoder_hidden_states=prompt_embeds,
        txt_ids=torch.zeros(prompt_embeds.shape[1], 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32),
        return_dict=False,
    )[0]


def _drawn(encoders: Encoders, phase: FluxPhase, seed: int, report: Report) -> SampledScenes:
    """Spends a third of the phase on drawing. Raises ValueError where nothing of it is good enough to learn from."""
    teacher = FluxTransformer2DModel.from_pretrained(phase.initial).eval()
    drawn, start = SampledScenes(encoders, teacher, phase.wrong_captions, seed), time.monotonic()
    while time.monotonic() - start < phase.seconds / 3:
        drawn.draw()
        if drawn.drawn % 1280 == 0:
            report(f"drawn {drawn.drawn} scenes in many steps, {len(drawn)} of them flawless")
    if not len(drawn):
        raise ValueError(
            f"none of the {drawn.drawn} scenes that FLUX drew shows the objects asked for, so there is nothing to "
            "distil: it has learnt too little from true captions yet; raise pretrain.minutes"
        )
    return drawn
