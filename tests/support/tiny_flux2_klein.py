"""A Flux2KleinPipeline of the real classes with random weights, small enough to test on one core."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from torch import nn

from pipelines.pretrain.vlm_model import build_tokenizer
from tests.support.tiny_qwen3 import random_qwen3


def flux2_klein_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The noise schedule of FLUX.2-klein: the shift comes from the pipeline."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="exponential")


def random_flux2_klein_pipeline(seed: int = 0, is_distilled: bool = False) -> Flux2KleinPipeline:
    """64 x 64 pixels, 16 image tokens of 16 channels, width 48. The text comes from layer 9, 18 and 27 of Qwen3."""
    torch.manual_seed(seed)
    tokenizer: Any = build_tokenizer()
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=96,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16, 32, 32), latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=64
    )
    nn.init.normal_(vae.bn.running_mean)  # pyright: ignore[reportArgumentType]
    nn.init.uniform_(vae.bn.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
    return Flux2KleinPipeline(
        flux2_klein_scheduler(),
        vae.eval(),
        random_qwen3(tokenizer, width=32, layers=27),
        tokenizer,
        transformer.eval(),
        is_distilled=is_distilled,
    )
