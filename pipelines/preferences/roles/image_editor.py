"""Losers by editing winners: the pipeline of Qwen-Image-Edit, beside the one that generates the winners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import QwenImageEditPipeline
from PIL import Image
from transformers import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.dtypes import DTYPES
from conf.generators import QwenImageSettings
from pipelines.preferences.roles.base import RawImage
from pipelines.preferences.roles.checked_images import ImageRequest
from pipelines.preferences.roles.generators import DiffusersGenerator
from pipelines.preferences.roles.pipeline_options import apply_options

IMAGE_TOKEN = "<|image_pad|>"


@dataclass(frozen=True)
class EditProcessor:
    """What Qwen2VLProcessor does with one image and its texts. That class needs torchvision, for videos."""

    images: Qwen2VLImageProcessorPil
    tokenizer: Any  # PreTrainedTokenizerFast, whose call is not typed

    def __call__(self, text: list[str], images: Image.Image, padding: bool, return_tensors: str) -> BatchFeature:
        """Tokens of the texts, with one token of the image for each merged patch, and the patches."""
        found = self.images(images=images, return_tensors=return_tensors)
        tokens = int(found["image_grid_thw"][0].prod()) // self.images.merge_size**2
        texts = [one.replace(IMAGE_TOKEN, IMAGE_TOKEN * tokens) for one in text]
        return BatchFeature({**self.tokenizer(texts, padding=padding, return_tensors=return_tensors), **found})


class QwenImageEditor:
    """Edits images with QwenImageEditPipeline, one in a call: its text encoder sees the image, too."""

    def __init__(self, settings: QwenImageSettings, device: torch.device) -> None:
        """Loads `settings.edit_model`. A LoRA and a shift of the noise schedule are those of `settings.model` only."""
        self._settings = settings
        pipeline: Any = QwenImageEditPipeline  # Any: diffusers does not type its call
        self._pipeline = pipeline.from_pretrained(settings.edit_model, dtype=DTYPES[settings.dtype], processor=None)
        images = Qwen2VLImageProcessorPil.from_pretrained(settings.edit_model, subfolder="processor")
        self._pipeline.processor = EditProcessor(images, self._pipeline.tokenizer)
        self._pipeline.set_progress_bar_config(disable=True)
        apply_options(self._pipeline, replace(settings, lora="", lora_file="", shift=0.0), device)

    @torch.no_grad()
    def edit(self, request: ImageRequest) -> RawImage:
        """Edits the source of `request` as its text says. The result has the size of the source."""
        if request.source is None:
            raise ValueError("only a request with a source can be edited")
        height, width = request.source.pixels.shape[:2]
        settings = self._settings
        guidance = {"negative_prompt": " "} if settings.edit_guidance > 1 else {}
        (image,) = self._pipeline(
            image=Image.fromarray(request.source.pixels),
            prompt=request.text,
            true_cfg_scale=settings.edit_guidance,
            height=height,
            width=width,
            num_inference_steps=settings.edit_denoise_steps,
            output_type="np",
            generator=torch.Generator().manual_seed(request.seed),
            **guidance,
        ).images
        return RawImage((image.clip(0, 1) * 255).round().astype(np.uint8), "qwen_image", request.seed)


@dataclass(frozen=True)
class EditingGenerator:
    """Generates winners, and edits them into losers."""

    generator: DiffusersGenerator
    editor: QwenImageEditor

    def draw(self, requests: Sequence[ImageRequest]) -> list[RawImage]:
        """One image for each request, in order. Those without a source are generated in one call."""
        new = [request for request in requests if request.source is None]
        generated = iter(self.generator.draw(new) if new else [])
        return [self.editor.edit(one) if one.source else next(generated) for one in requests]
