# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""What the tiny FLUX is trained on: scenes that were rendered, and scenes that it drew itself in many steps.

Axes: B rows, S image tokens, C channels, L text tokens, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5EncoderModel

from pipelines.pretrain.architecture import TEXT_TOKENS, scheduler
from pipelines.pretrain.vae import decode, draw_scenes, encode, write_scenes
from pipelines.scenes.checker import inspect
from pipelines.scenes.grammar import Scene, perturb
from pipelines.scenes.render import SIZE

POOL = 12_000  # rendered scenes kept encoded in memory
RENEW_EVERY, RENEWED = 8, 16  # batches, scenes: the pool turns over
GUIDANCE = 3.5
TEACHER_STEPS = 20  # denoise steps of the pictures that FLUX learns to draw in few
DRAWN_AT_ONCE = 64


@dataclass
class FluxBatch:
    """Training rows."""

    latents: torch.Tensor  # [B, S, C] x0
    noise: torch.Tensor  # [B, S, C] eps
    prompt_embeds: torch.Tensor  # [B, L, D]
    pooled_embeds: torch.Tensor  # [B, D]

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, rows: torch.Tensor) -> FluxBatch:
        """Some of the rows."""
        return FluxBatch(*(getattr(self, part.name)[rows] for part in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[FluxBatch]) -> FluxBatch:
        """The rows of all parts."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class Encoders:
    """The frozen modules that turn scenes into training rows."""

    def __init__(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, clip: CLIPTextModel, t5: T5EncoderModel
    ) -> None:
        self.vae, self.tokenizer, self.clip, self.t5 = vae, tokenizer, clip, t5

    @classmethod
    def load(cls, parts: Path, vae: str = "vae") -> Encoders:
        """The parts that `scenes pretrain` saved; `vae`: the autoencoder's first state, or `decoder`, its last."""
        return cls(
            AutoencoderKL.from_pretrained(parts / vae / "vae").requires_grad_(False),
            PreTrainedTokenizerFast.from_pretrained(parts / "text" / "tokenizer"),
            CLIPTextModel.from_pretrained(parts / "text" / "clip").requires_grad_(False),
            T5EncoderModel.from_pretrained(parts / "text" / "t5").requires_grad_(False),
        )

    def pipeline(self, model: FluxTransformer2DModel) -> FluxPipeline:
        """The parts as a FluxPipeline."""
        made = FluxPipeline(scheduler(), self.vae, self.clip, self.tokenizer, self.t5, self.tokenizer, model)
        made.set_progress_bar_config(disable=True)
        return made

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(T5 states [B, L, D], CLIP pooled [B, D])."""
        ids = self.tokenizer(list(texts), padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
        return self.t5(ids)[0], self.clip(ids).pooler_output

    def latents(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W, 3] -> packed latents [B, S, C]."""
        latents = encode(self.vae, images)
        return FluxPipeline._pack_latents(latents, len(latents), *latents.shape[1:])


class RenderedScenes:
    """Rows of rendered scenes with fresh noise; a share `wrong` of the captions has one relation changed."""

    def __init__(self, encoders: Encoders, wrong: float, seed: int) -> None:
        self._encoders, self._wrong = encoders, wrong
        self._rng, self._generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self._pool = FluxBatch.joined([self._rendered(1000) for _ in range(POOL // 1000)])
        self._cursor = self._batches = 0

    def batch(self, count: int) -> FluxBatch:
        """Draws rows; the pool is renewed now and then."""
        self._batches += 1
        if self._batches % RENEW_EVERY == 0:
            self._renew()
        rows = self._pool.take(torch.randint(POOL, (count,), generator=self._generator))
        rows.noise = torch.randn(rows.latents.shape, generator=self._generator)
        return rows

    def _rendered(self, count: int) -> FluxBatch:
        scenes, images = draw_scenes(count, self._rng)
        latents = self._encoders.latents(images)
        captions = [caption(scene, self._wrong, self._rng) for scene in scenes]
        return FluxBatch(latents, torch.empty_like(latents), *self._encoders.text(captions))

    def _renew(self) -> None:
        fresh = self._rendered(RENEWED)
        for part in fields(FluxBatch):
            getattr(self._pool, part.name)[self._cursor : self._cursor + RENEWED] = getattr(fresh, part.name)
        self._cursor = (self._cursor + RENEWED) % (POOL - POOL % RENEWED)


class SampledScenes:
    """Rows of scenes that a teacher drew in many steps, each with the noise that it began with.

    A straight line from that noise to the finished picture is what few steps can follow (rectified flow's reflow,
    arXiv 2209.03003, the step distillation of FLUX.1's kind). Kept are pictures that show exactly the objects asked
    for; where these stand is not looked at.
    """

    def __init__(self, encoders: Encoders, teacher: FluxTransformer2DModel, wrong: float, seed: int) -> None:
        self._encoders, self._teacher, self._wrong = encoders, encoders.pipeline(teacher), wrong
        self._rng, self._generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self._kept: list[FluxBatch] = []
        self._pool: FluxBatch | None = None
        self.drawn = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept))

    @torch.no_grad()
    def draw(self) -> None:
        """Draws a batch and keeps what is good of it."""
        scenes = write_scenes(DRAWN_AT_ONCE, self._rng)
        noise = torch.randn(len(scenes), 16, 32, generator=self._generator)
        embeds, pooled = self._encoders.text([scene.text for scene in scenes])
        latents = self._teacher(
            prompt_embeds=embeds, pooled_prompt_embeds=pooled, latents=noise, height=SIZE, width=SIZE,
            num_inference_steps=TEACHER_STEPS, guidance_scale=GUIDANCE, output_type="latent",
        ).images  # fmt: skip
        captions = [caption(scene, self._wrong, self._rng) for scene in scenes]
        rows = FluxBatch(latents, noise, *self._encoders.text(captions))
        self._kept.append(rows.take(torch.tensor(self._flawless(scenes, latents)).nonzero().flatten()))
        self.drawn, self._pool = self.drawn + len(scenes), None

    def batch(self, count: int) -> FluxBatch:
        """Draws rows from those kept."""
        if self._pool is None:
            self._pool = FluxBatch.joined(self._kept)
        return self._pool.take(torch.randint(len(self._pool), (count,), generator=self._generator))

    def _flawless(self, scenes: Sequence[Scene], latents: torch.Tensor) -> list[bool]:
        images = decode(self._encoders.vae, FluxPipeline._unpack_latents(latents, SIZE, SIZE, 8))
        found = [{thing.obj for thing in inspect(image)} for image in images]
        return [things == set(scene.objects) for things, scene in zip(found, scenes, strict=True)]


def caption(scene: Scene, wrong: float, rng: np.random.Generator) -> str:
    """The scene's sentence, or, in a share `wrong` of the cases, one with some relation changed."""
    if rng.random() >= wrong:
        return scene.text
    return perturb(scene, int(rng.integers(1, len(scene.words) + 1)), rng)[0].text
