"""What diffusers itself samples from a pipeline directory: the reference for the sampler and for exported LoRAs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline, QwenImagePipeline

from tests.support.tiny_flux import TEXTS

SEEDS = [5, 6]
NEGATIVE_PROMPT = "a red circle"


def flux_latents(directory: Path, lora: Path | None = None) -> torch.Tensor:
    """Final latents of FluxPipeline for TEXTS and SEEDS at six steps, [2, S, C]."""
    return _flux(directory, "latent", lora)


def flux_images(directory: Path) -> np.ndarray:
    """Images of FluxPipeline for TEXTS and SEEDS at six steps, uint8 [2, 64, 64, 3]."""
    return np.stack([np.array(image) for image in _flux(directory, "pil", None)])


def qwen_latents(directory: Path, text: str, true_cfg: float, lora: Path | None = None) -> torch.Tensor:
    """Final latents of QwenImagePipeline for one text and SEEDS at six steps, [2, S, C]."""
    return _qwen(directory, text, "latent", true_cfg, lora)


def qwen_images(directory: Path, text: str, true_cfg: float) -> np.ndarray:
    """Images of QwenImagePipeline for one text and SEEDS at six steps, uint8 [2, 64, 64, 3]."""
    return np.stack([np.array(image) for image in _qwen(directory, text, "pil", true_cfg, None)])


def _flux(directory: Path, output: str, lora: Path | None) -> Any:
    pipeline = FluxPipeline.from_pretrained(directory)
    return _run(pipeline, output, lora, prompt=TEXTS, guidance_scale=3.5)


def _qwen(directory: Path, text: str, output: str, true_cfg: float, lora: Path | None) -> Any:
    pipeline = QwenImagePipeline.from_pretrained(directory)
    prompts = {"prompt": [text] * len(SEEDS), "negative_prompt": [NEGATIVE_PROMPT] * len(SEEDS)}
    return _run(pipeline, output, lora, **prompts, true_cfg_scale=true_cfg)


def _run(pipeline: Any, output: str, lora: Path | None, **arguments: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    return pipeline(
        **arguments,
        height=64,
        width=64,
        num_inference_steps=6,
        max_sequence_length=24,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type=output,
    ).images
