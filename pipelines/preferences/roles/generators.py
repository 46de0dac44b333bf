"""Painters of photographs that run here: diffusers pipelines, each on actors of its own.

Both pictures of a pair are one painter's, from one seed, so that they differ by little but what the prompts say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanImagePipeline, QwenImagePipeline

from conf.preferences import DiffusersSettings
from pipelines.preferences.roles.base import PromptPair, RawImage, RawPair

_PIPELINES: dict[str, Any] = {"qwen_image": QwenImagePipeline, "hunyuan_image": HunyuanImagePipeline}  # Any: no base


class DiffusersGenerator:
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

    def generate(self, drafts: Sequence[PromptPair]) -> list[RawPair]:
        """Both pictures of every draft, in order. Every draft must be perturbed."""
        texts = [text for draft in drafts for text in draft.texts]
        seeds = [draft.image_seed for draft in drafts for _ in range(2)]
        size = self._settings.batch
        batches = [slice(start, start + size) for start in range(0, len(texts), size)]
        pixels = [image for batch in batches for image in self._generate(texts[batch], seeds[batch])]
        canvases = [RawImage(image, self._generator, seed) for image, seed in zip(pixels, seeds, strict=True)]
        return [RawPair(draft, *canvases[2 * i : 2 * i + 2]) for i, draft in enumerate(drafts)]

    @torch.no_grad()
    def _generate(self, texts: list[str], seeds: list[int]) -> np.ndarray:
        """uint8 [B, H, W, 3]."""
        own = self._settings
        if self._generator == "qwen_image":
            guidance: dict[str, Any] = {"true_cfg_scale": own.guidance, "negative_prompt": [" "] * len(texts)}
        else:  # a checkpoint that is not distilled holds its guidance in its guider
            guidance = {"distilled_guidance_scale": own.guidance}
        images = self._pipeline(
            prompt=texts, height=own.height, width=own.width, num_inference_steps=own.denoise_steps, output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds], **guidance,
        ).images  # fmt: skip
        return (np.asarray(images).clip(0, 1) * 255).round().astype(np.uint8)
