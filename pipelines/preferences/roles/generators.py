"""Generators of photographs that run on the cluster: diffusers pipelines, each on its own actors.

One generator makes both images of a pair from one seed, so that they differ mainly in what the prompts say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from diffusers import HunyuanImagePipeline, QwenImagePipeline

from conf.preferences import DiffusersSettings
from pipelines.preferences.roles.base import PromptPair, RawImage, RawPair, ignore

_PIPELINES: dict[str, Any] = {  # Any: the two classes have no common base with a typed call
    "qwen_image": QwenImagePipeline,
    "hunyuan_image": HunyuanImagePipeline,
}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DiffusersGenerator:
    """Generates images with QwenImagePipeline or HunyuanImagePipeline, in batches."""

    def __init__(
        self,
        generator: Literal["qwen_image", "hunyuan_image"],
        settings: DiffusersSettings,
        device: torch.device,
        count: Callable[[int], None] = ignore,
    ) -> None:
        """Loads the pipeline of `generator`, which is also the name of its settings section.

        `count` receives the number of pairs of each batch.
        """
        self._generator, self._settings, self._count = generator, settings, count
        self._pipeline = _PIPELINES[generator].from_pretrained(settings.model, dtype=_DTYPES[settings.dtype])
        self._pipeline.set_progress_bar_config(disable=True)
        if settings.offload == "model":
            self._pipeline.enable_model_cpu_offload(device=device)
        elif settings.offload == "sequential":
            self._pipeline.enable_sequential_cpu_offload(device=device)
        else:
            self._pipeline.to(device)

    def generate(self, prompts: Sequence[PromptPair]) -> list[RawPair]:
        """Returns both images of every pair, in order. Raises ValueError if a prompt is not perturbed."""
        texts = [text for prompt in prompts for text in prompt.texts]
        seeds = [prompt.image_seed for prompt in prompts for _ in range(2)]
        size = self._settings.batch
        batches = [slice(start, start + size) for start in range(0, len(texts), size)]
        pixels: list[np.ndarray] = []
        for batch in batches:
            before = len(pixels)
            pixels += list(self._generate(texts[batch], seeds[batch]))
            self._count(len(pixels) // 2 - before // 2)
        images = [RawImage(image, self._generator, seed) for image, seed in zip(pixels, seeds, strict=True)]
        return [RawPair(prompt, images[2 * i], images[2 * i + 1]) for i, prompt in enumerate(prompts)]

    @torch.no_grad()
    def _generate(self, texts: list[str], seeds: list[int]) -> np.ndarray:
        """One call of the pipeline: uint8 [B, H, W, 3]."""
        settings = self._settings
        if self._generator == "qwen_image":
            guidance: dict[str, Any] = {"true_cfg_scale": settings.guidance, "negative_prompt": [" "] * len(texts)}
        else:  # a HunyuanImage checkpoint that is not distilled takes its guidance from its guider instead
            guidance = {"distilled_guidance_scale": settings.guidance}
        images = self._pipeline(
            prompt=texts,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.denoise_steps,
            output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **guidance,
        ).images
        return (np.asarray(images).clip(0, 1) * 255).round().astype(np.uint8)
