"""A QwenImagePipeline of the real classes with random weights, small enough to test on one core."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from pipelines.pretrain.vlm_model import build_model, build_tokenizer


def random_qwen_image_pipeline(seed: int = 0) -> QwenImagePipeline:
    """64 x 64 pixels, 16 image tokens of 16 channels, width 48; the schedule of Qwen/Qwen-Image."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=96, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 2, 2], num_res_blocks=1, latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 2.0, 1.5, 0.5],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256, base_shift=0.5, max_image_seq_len=8192, max_shift=0.9, shift_terminal=0.02,
        use_dynamic_shifting=True, time_shift_type="exponential",
    )  # fmt: skip
    return QwenImagePipeline(scheduler, vae.eval(), build_model(tokenizer).eval(), tokenizer, transformer.eval())


def save_random_qwen_image(directory: Path) -> Path:
    """Writes the pipeline in diffusers format and returns its directory."""
    random_qwen_image_pipeline().save_pretrained(directory)
    return directory
