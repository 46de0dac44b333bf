# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Trains the tiny FLUX by flow matching: first to draw what is asked, then to forget a little where.

x_s = (1 - s) x0 + s eps, the network predicts v = eps - x0 (rectified flow, as FLUX.1). The last phase gives a share of
the pictures a caption with one wrong relation. What remains draws objects well and places them badly: the weakness of
its big sister that the reward is there to mend.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel

from actors.records import Prompt
from conf import PretrainSettings
from pipelines.scenes.architecture import TEXT_TOKENS, scheduler, transformer
from pipelines.scenes.checker import Verdict, check
from pipelines.scenes.grammar import Scene, perturb
from pipelines.scenes.pretrain_vae import draw_scenes, encode
from pipelines.scenes.render import SIZE

BATCH = 64
POOL = 8_000  # scenes kept encoded in memory
REFRESH = 4  # fresh scenes a step, so that the pool turns over
GUIDANCE = 3.5
EMA = 0.998
CLEAN_LR = (1.5e-3, 2e-4)  # at the beginning and at the end
WEAKENING_LR = (6e-4, 3e-5)
WEAKENING = 0.08  # share of all pretraining's time that the last phase gets


@dataclass
class ScenePool:
    """Encoded scenes: packed latents and text features, a slice of which is renewed at every step."""

    latents: torch.Tensor  # [N, 16, 32]
    prompt_embeds: torch.Tensor  # [N, L, D]
    pooled_embeds: torch.Tensor  # [N, D]
    cursor: int = 0


class Encoders:
    """The frozen modules that turn scenes into training rows."""

    def __init__(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, clip: CLIPTextModel, t5: T5EncoderModel
    ) -> None:
        self.vae, self.tokenizer, self.clip, self.t5 = vae, tokenizer, clip, t5

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(T5 states [B, L, D], CLIP pooled [B, D])."""
        ids = self.tokenizer(list(texts), padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
        return self.t5(ids)[0], self.clip(ids).pooler_output

    def scenes(self, count: int, wrong: float, rng: np.random.Generator) -> ScenePool:
        """Draws and encodes scenes; a share `wrong` of them gets a caption with one relation changed."""
        scenes, images = draw_scenes(count, rng)
        captions = [_caption(scene, wrong, rng) for scene in scenes]
        latents = encode(self.vae, images)
        packed = FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])
        return ScenePool(packed, *self.text(captions))


def train_transformer(
    encoders: Encoders, seconds: float, seed: int, report: Callable[[str], None]
) -> FluxTransformer2DModel:
    """Trains on true captions for `seconds` of wall clock and returns the averaged weights."""
    torch.manual_seed(seed)
    return fit(transformer(), encoders, seconds, seed, 0.0, CLEAN_LR, report)


def weaken(
    model: FluxTransformer2DModel, encoders: Encoders, settings: PretrainSettings, report: Callable[[str], None]
) -> FluxTransformer2DModel:
    """The last phase: `wrong_captions` of the captions name one wrong relation."""
    seconds = 60 * settings.minutes * WEAKENING
    return fit(model, encoders, seconds, settings.seed + 1, settings.wrong_captions, WEAKENING_LR, report)


def fit(
    model: FluxTransformer2DModel,
    encoders: Encoders,
    seconds: float,
    seed: int,
    wrong_captions: float,
    lr: tuple[float, float],
    report: Callable[[str], None],
) -> FluxTransformer2DModel:
    """One phase of flow matching; the learning rate falls from lr[0] to lr[1]. Returns the weights' moving average."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    pool = encoders.scenes(POOL, wrong_captions, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr[0], betas=(0.9, 0.98), weight_decay=0.01)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    ids = (torch.zeros(TEXT_TOKENS, 3), FluxPipeline._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32))
    guidance = torch.full((BATCH,), GUIDANCE)
    model.train()
    start, step, running = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, step / 100) * (lr[0] + (lr[1] - lr[0]) * elapsed / seconds)
        rows = torch.randint(POOL, (BATCH,), generator=generator)
        x0 = pool.latents[rows]  # [B, S, C]
        noise = torch.randn(x0.shape, generator=generator)
        s = torch.sigmoid(torch.randn(BATCH, generator=generator) * 1.15 + 1.0)
        mixed = torch.lerp(x0, noise, s[:, None, None])
        velocity = model(
            hidden_states=mixed,
            timestep=s,
            guidance=guidance,
            pooled_projections=pool.pooled_embeds[rows],
            encoder_hidden_states=pool.prompt_embeds[rows],
            txt_ids=ids[0],
            img_ids=ids[1],
            return_dict=False,
        )[0]
        loss = F.mse_loss(velocity, noise - x0)
        optimizer.zero_grad()
        loss.backward()
        _average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        _renew(pool, encoders.scenes(REFRESH, wrong_captions, rng))
        step, running = step + 1, 0.98 * running + 0.02 * loss.item()
        if step % 250 == 0:
            report(f"FLUX: step {step}, {elapsed:.0f} of {seconds:.0f} s, loss {running / (1 - 0.98**step):.4f}")
    model.load_state_dict(average.module.state_dict())
    return model.eval()


def assemble(encoders: Encoders, model: FluxTransformer2DModel) -> FluxPipeline:
    """The parts as a FluxPipeline."""
    return FluxPipeline(
        scheduler(), encoders.vae, encoders.clip, encoders.tokenizer, encoders.t5, encoders.tokenizer, model
    )


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


def _average_gradients(model: FluxTransformer2DModel) -> None:
    """Over the processes of a data-parallel run; each draws scenes of its own. On one process it does nothing."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True):
        gradient.copy_(mean)


def _caption(scene: Scene, wrong: float, rng: np.random.Generator) -> str:
    if rng.random() >= wrong:
        return scene.text
    return perturb(scene, int(rng.integers(1, len(scene.words) + 1)), rng)[0].text


def _renew(pool: ScenePool, fresh: ScenePool) -> None:
    count = len(fresh.latents)
    rows = slice(pool.cursor, pool.cursor + count)
    pool.latents[rows], pool.prompt_embeds[rows] = fresh.latents, fresh.prompt_embeds
    pool.pooled_embeds[rows] = fresh.pooled_embeds
    pool.cursor = (pool.cursor + count) % (POOL - POOL % count)
