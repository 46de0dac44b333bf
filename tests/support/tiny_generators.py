"""QwenImagePipeline and HunyuanImagePipeline with random weights: the real classes, small enough for one core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanImage,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    QwenImageEditPipeline,
)
from diffusers.guiders import AdaptiveProjectedMixGuidance
from tokenizers import Regex, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from pipelines.pretrain.vlm_model import build_image_processor, build_model, build_tokenizer
from tests.support.tiny_qwen_image import random_qwen_image_pipeline

PROCESSOR = "Qwen2VLProcessor"  # of Qwen/Qwen-Image-Edit


def line_tokenizer() -> PreTrainedTokenizerFast:
    """The scenes tokenizer with a token for the end of a line.

    Both pipelines count these tokens in the prefix that they remove.
    """
    tokenizer = build_tokenizer()
    parts = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    tokenizer.backend_tokenizer.pre_tokenizer = parts  # type: ignore[attr-defined]
    return tokenizer


def save_random_qwen(directory: Path) -> Path:
    """Writes a tiny QwenImagePipeline in diffusers format and returns its directory."""
    pipeline = random_qwen_image_pipeline()
    pipeline.register_modules(tokenizer=line_tokenizer())
    pipeline.save_pretrained(directory)
    return directory


def save_random_qwen_edit(directory: Path) -> Path:
    """Writes a tiny QwenImageEditPipeline in diffusers format and returns its directory."""
    parts = random_qwen_image_pipeline(seed=1).components
    tokenizer = line_tokenizer()
    edit: Any = QwenImageEditPipeline  # Any: the tokenizer is not the Qwen2Tokenizer of its signature
    edit(**parts | {"tokenizer": tokenizer, "processor": None}).save_pretrained(directory)
    build_image_processor().save_pretrained(directory / "processor")  # Qwen2VLProcessor itself needs torchvision
    index = json.loads((directory / "model_index.json").read_text()) | {"processor": ["transformers", PROCESSOR]}
    (directory / "model_index.json").write_text(json.dumps(index))
    return directory


def save_random_hunyuan(directory: Path) -> Path:
    """Writes a tiny HunyuanImagePipeline in diffusers format and returns its directory.

    Its VAE compresses 32 x, as the real one does.
    """
    torch.manual_seed(0)
    tokenizer = line_tokenizer()
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=96,
        text_embed_2_dim=32,
        rope_axes_dim=(8, 8),
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32,) * 6,
        layers_per_block=1,
        spatial_compression_ratio=32,
        sample_size=64,
        scaling_factor=0.75,
    )
    glyphs = T5EncoderModel(T5Config(d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=2, vocab_size=400))
    guider = AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1)
    pipeline: Any = HunyuanImagePipeline  # Any: the tokenizer is not the Qwen2Tokenizer of its signature
    pipeline = pipeline(
        FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae.eval(),
        build_model(tokenizer).eval(),
        tokenizer,
        glyphs.eval(),
        ByT5Tokenizer(),
        transformer.eval(),
        guider,
        guider,
    )
    pipeline.save_pretrained(directory)
    return directory
