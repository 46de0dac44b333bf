"""Generators of photographs that run on the cluster: diffusers pipelines, each on its own actors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from diffusers import HunyuanImagePipeline, QwenImagePipeline

from actors.dtypes import DTYPES
from conf.generators import DiffusersSettings
from pipelines.preferences.roles.base import RawImage
from pipelines.preferences.roles.checked_images import ImageRequest
from pipelines.preferences.roles.pipeline_options import apply_options
from pipelines.preferences.roles.text_stage import TextStage

_PIPELINES: dict[str, Any] = {  # Any: the two classes have no common base with a typed call
    "qwen_image": QwenImagePipeline,
    "hunyuan_image": HunyuanImagePipeline,
}


class DiffusersGenerator:
    """Generates images with QwenImagePipeline or HunyuanImagePipeline, in batches."""

    def __init__(
        self,
        generator: Literal["qwen_image", "hunyuan_image"],
        settings: DiffusersSettings,
        device: torch.device,
    ) -> None:
        """Loads the pipeline of `generator`, which is also the name of its settings section.

        Raises UserError if an option cannot be applied.
        """
        self._generator, self._settings = generator, settings
        self._pipeline = _PIPELINES[generator].from_pretrained(settings.model, dtype=DTYPES[settings.dtype])
        self._pipeline.set_progress_bar_config(disable=True)
        apply_options(self._pipeline, settings, device)
        self._texts: TextStage | None = None
        if settings.offload == "text":
            self._texts = TextStage(self._pipeline, device, self._negative)

    @property
    def _negative(self) -> str | None:
        """The text of the second pass of a denoise step; None if the pipeline makes none."""
        if self._generator == "hunyuan_image":
            return ""  # what the pipeline takes if it is given none; its guider decides whether it is used
        return " " if self._settings.guidance > 1 else None

    def announce(self, texts: Iterable[str]) -> None:
        """Says which texts the next shard needs, so that they can be encoded together, see TextStage."""
        if self._texts:
            self._texts.announce(texts)

    def draw(self, requests: Sequence[ImageRequest]) -> list[RawImage]:
        """Returns one image for each request, in order, from one call of the pipeline."""
        pixels = self._generate([one.text for one in requests], [one.seed for one in requests])
        return [RawImage(image, self._generator, one.seed) for image, one in zip(pixels, requests, strict=True)]

    @torch.no_grad()
    def _generate(self, texts: list[str], seeds: list[int]) -> np.ndarray:
        """One call of the pipeline: uint8 [B, H, W, 3]."""
        settings = self._settings
        if self._generator == "qwen_image":
            guidance = {"true_cfg_scale": settings.guidance}
        else:  # a HunyuanImage checkpoint that is not distilled takes its guidance from its guider instead
            guidance = {"distilled_guidance_scale": settings.guidance}
        images = self._pipeline(
            **self._prompts(texts),
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.denoise_steps,
            output_type="np",
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **guidance,
        ).images
        return (np.asarray(images).clip(0, 1) * 255).round().astype(np.uint8)

    def _prompts(self, texts: list[str]) -> dict[str, Any]:
        """The arguments of the call that hold its texts, or what the text encoders made of them."""
        if self._texts:
            return dict(self._texts.inputs(texts))
        if self._generator == "hunyuan_image" or self._negative is None:
            return {"prompt": texts}
        return {"prompt": texts, "negative_prompt": [self._negative] * len(texts)}
