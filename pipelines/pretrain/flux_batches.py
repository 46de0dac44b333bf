# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
# (the model libraries leave their configurations and outputs untyped)
"""Training batches of the tiny FLUX from rendered scenes.

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
from pipelines.pretrain.latents import pack
from pipelines.pretrain.vae import draw_scenes, encode
from pipelines.scenes.grammar import Scene, perturb

POOL = 12_000  # rendered scenes that are kept encoded in memory
RENEW_EVERY = 8  # batches between two renewals of the pool
RENEWED = 16  # scenes that a renewal replaces
GUIDANCE = 3.5


@dataclass
class FluxBatch:
    """Rows of a training batch."""

    latents: torch.Tensor  # [B, S, C] x0
    noise: torch.Tensor  # [B, S, C] eps
    prompt_embeds: torch.Tensor  # [B, L, D]
    pooled_embeds: torch.Tensor  # [B, D]

    def __len__(self) -> int:
        return len(self.latents)

    def take(self, rows: torch.Tensor) -> FluxBatch:
        """Returns some of the rows, by index or by mask."""
        return FluxBatch(*(getattr(self, part.name)[rows] for part in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[FluxBatch]) -> FluxBatch:
        """Returns the rows of all parts."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class Encoders:
    """The frozen modules that turn scenes into training rows."""

    def __init__(
        self, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast, clip: CLIPTextModel, t5: T5EncoderModel
    ) -> None:
        self.vae, self.tokenizer, self.clip, self.t5 = vae, tokenizer, clip, t5

    @classmethod
    def load(cls, parts: Path, vae: str = "vae") -> Encoders:
        """Loads finished parts of `scenes pretrain`.

        vae: `vae`, or `decoder` for the autoencoder whose decoder was trained further.
        """
        return cls(
            AutoencoderKL.from_pretrained(parts / vae / "vae").requires_grad_(False),
            PreTrainedTokenizerFast.from_pretrained(parts / "text" / "tokenizer"),
            CLIPTextModel.from_pretrained(parts / "text" / "clip").requires_grad_(False),
            T5EncoderModel.from_pretrained(parts / "text" / "t5").requires_grad_(False),
        )

    def pipeline(self, model: FluxTransformer2DModel) -> FluxPipeline:
        """Returns a FluxPipeline of these modules and a transformer."""
        pipeline = FluxPipeline(scheduler(), self.vae, self.clip, self.tokenizer, self.t5, self.tokenizer, model)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (T5 states [B, L, D], CLIP pooled [B, D])."""
        ids = self.tokenizer(list(texts), padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
        return self.t5(ids)[0], self.clip(ids).pooler_output

    def latents(self, images: np.ndarray) -> torch.Tensor:
        """Encodes images, uint8 [B, H, W, 3], to packed latents [B, S, C]."""
        return pack(encode(self.vae, images))


class RenderedScenes:
    """Rows of rendered scenes with fresh noise. A fraction of the captions has wrong relations."""

    def __init__(self, encoders: Encoders, mislabelled: float, seed: int) -> None:
        self._encoders, self._mislabelled = encoders, mislabelled
        self._rng, self._generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        self._pool = FluxBatch.joined([self._rendered(1000) for _ in range(POOL // 1000)])
        self._cursor = self._batches = 0

    def batch(self, count: int) -> FluxBatch:
        """Draws rows from the pool. Every RENEW_EVERY batches a part of the pool is replaced by new scenes."""
        self._batches += 1
        if self._batches % RENEW_EVERY == 0:
            self._renew()
        rows = self._pool.take(torch.randint(POOL, (count,), generator=self._generator))
        rows.noise = torch.randn(rows.latents.shape, generator=self._generator)
        return rows

    def _rendered(self, count: int) -> FluxBatch:
        scenes, images = draw_scenes(count, self._rng)
        latents = self._encoders.latents(images)
        captions = [caption(scene, self._mislabelled, self._rng) for scene in scenes]
        return FluxBatch(latents, torch.empty_like(latents), *self._encoders.text(captions))

    def _renew(self) -> None:
        fresh = self._rendered(RENEWED)
        for part in fields(FluxBatch):
            getattr(self._pool, part.name)[self._cursor : self._cursor + RENEWED] = getattr(fresh, part.name)
        self._cursor = (self._cursor + RENEWED) % (POOL - POOL % RENEWED)


def caption(scene: Scene, mislabelled: float, rng: np.random.Generator) -> str:
    """Returns the sentence of the scene or, with probability `mislabelled`, one with some relations changed."""
    if rng.random() >= mislabelled:
        return scene.text
    return perturb(scene, int(rng.integers(1, len(scene.words) + 1)), rng)[0].text
