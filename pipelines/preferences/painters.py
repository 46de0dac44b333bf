"""Painters of photographs: diffusers pipelines on an actor of their own, and Seedream over its images API.

Both pictures of a pair are one painter's, from one seed, so that they differ by little but what the prompts say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanImagePipeline, QwenImagePipeline
from PIL import UnidentifiedImageError

from actors.endpoint import Endpoint
from conf.endpoints import SeedreamSettings
from conf.preferences import DiffusersSettings
from pipelines.preferences.chat import or_dropped
from pipelines.preferences.picture import decode
from pipelines.preferences.roles import Canvas, Draft, Drawn, Dropped
from pipelines.preferences.wording import Unfit

_PIPELINES: dict[str, Any] = {"qwen_image": QwenImagePipeline, "hunyuan_image": HunyuanImagePipeline}  # Any: no base
_SEEDS = 2**31  # what the services take


def seed_of(draft: Draft) -> int:
    """The seed of both pictures of a row: what its column `seed` holds, modulo 2^31."""
    return draft.task.seed % _SEEDS


class DiffusersPainter:
    """Paints with QwenImagePipeline or HunyuanImagePipeline, in batches."""

    def __init__(self, generator: str, settings: DiffusersSettings, device: torch.device) -> None:
        """`generator`: qwen_image or hunyuan_image, which is also the name of the settings' section."""
        self._generator, self._settings = generator, settings
        dtype = getattr(torch, settings.dtype)
        self._pipeline = _PIPELINES[generator].from_pretrained(settings.model, torch_dtype=dtype)
        self._pipeline.set_progress_bar_config(disable=True)
        if settings.offload == "model":
            self._pipeline.enable_model_cpu_offload(device=device)
        elif settings.offload == "sequential":
            self._pipeline.enable_sequential_cpu_offload(device=device)
        else:
            self._pipeline.to(device)

    def draw(self, drafts: Sequence[Draft]) -> list[Drawn]:
        """Both pictures of every draft, in order. Every draft must be perturbed."""
        texts = [text for draft in drafts for text in _both(draft)]
        seeds = [seed_of(draft) for draft in drafts for _ in range(2)]
        size = self._settings.batch
        batches = [slice(start, start + size) for start in range(0, len(texts), size)]
        pixels = [image for batch in batches for image in self._paint(texts[batch], seeds[batch])]
        canvases = [Canvas(image, self._generator, seed) for image, seed in zip(pixels, seeds, strict=True)]
        return [Drawn(draft, *canvases[2 * i : 2 * i + 2]) for i, draft in enumerate(drafts)]

    @torch.no_grad()
    def _paint(self, texts: list[str], seeds: list[int]) -> np.ndarray:
        """uint8 [B, H, W, 3]."""
        own = self._settings
        if self._generator == "qwen_image":
            guidance: dict[str, Any] = {"true_cfg_scale": own.guidance, "negative_prompt": [" "] * len(texts)}
        else:  # a checkpoint that is not distilled holds its guidance in its guider
            guidance = {"distilled_guidance_scale": own.guidance}
        images = self._pipeline(
            prompt=texts, height=own.height, width=own.width, num_inference_steps=own.steps, output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds], **guidance,
        ).images  # fmt: skip
        return (np.asarray(images).clip(0, 1) * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class SeedreamPainter:
    """Paints by an OpenAI-compatible images API."""

    endpoint: Endpoint
    settings: SeedreamSettings

    async def draw(self, drafts: Sequence[Draft]) -> list[Drawn | Dropped]:
        """Both pictures of every draft, in order. Raises EndpointError if no call can succeed."""
        return list(await asyncio.gather(*(or_dropped(draft.task, "painter", self._draw(draft)) for draft in drafts)))

    async def _draw(self, draft: Draft) -> Drawn:
        winner, loser = await asyncio.gather(*(self._canvas(text, seed_of(draft)) for text in _both(draft)))
        return Drawn(draft, winner, loser)

    async def _canvas(self, text: str, seed: int) -> Canvas:
        content = await self.endpoint.image(text, self.settings.size, seed)
        try:
            return Canvas(await asyncio.to_thread(decode, content), "seedream", seed)
        except UnidentifiedImageError:
            raise Unfit("malformed", f"{len(content)} bytes that are no image") from None


def _both(draft: Draft) -> tuple[str, str]:
    if draft.perturbed is None:
        raise ValueError(f"row {draft.task.index} must be perturbed before it is painted, got kind {draft.task.kind}")
    return draft.prompt.text, draft.perturbed.text
