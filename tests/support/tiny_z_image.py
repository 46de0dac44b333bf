"""A ZImagePipeline of the real classes with random weights, small enough to test on one core."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import nn

from pipelines.pretrain.vlm_model import build_tokenizer
from tests.support.tiny_flux import random_vae
from tests.support.tiny_qwen3 import random_qwen3


def z_image_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The noise schedule of Tongyi-MAI/Z-Image."""
    return FlowMatchEulerDiscreteScheduler(shift=6.0)


def random_z_image_pipeline(seed: int = 0) -> ZImagePipeline:
    """64 x 64 pixels, 16 image tokens of 16 channels (half of what the transformer fills up to), width 48."""
    torch.manual_seed(seed)
    tokenizer: Any = build_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=48,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=96,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 16, 16],
    )
    nn.init.normal_(transformer.x_pad_token)  # zero in a new model
    nn.init.normal_(transformer.cap_pad_token)
    text_encoder = random_qwen3(tokenizer, width=96, layers=2)
    return ZImagePipeline(
        z_image_scheduler(), random_vae(latent_channels=4).eval(), text_encoder, tokenizer, transformer.eval()
    )
