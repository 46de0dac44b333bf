"""A StableDiffusion3Pipeline of the real classes with random weights, small enough to test on one core."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from tests.support.tiny_flux import WORDS, random_t5, random_vae, word_tokenizer


def sd3_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The noise schedule of Stable Diffusion 3.5."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def random_sd3_pipeline(seed: int = 0) -> StableDiffusion3Pipeline:
    """64 x 64 pixels, 16 image tokens of 16 channels, width 48; one block of each kind of the medium model."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=96,
        caption_projection_dim=48,
        pooled_projection_dim=64,
        pos_embed_max_size=12,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    clips = [_random_clip() for _ in range(2)]
    words: Any = word_tokenizer(24)  # in place of CLIP's and T5's
    return StableDiffusion3Pipeline(
        transformer.eval(),
        sd3_scheduler(),
        random_vae(latent_channels=4).eval(),
        clips[0],
        words,
        clips[1],
        words,
        random_t5(width=96).eval(),
        words,
    )


def _random_clip() -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        projection_dim=32,
        eos_token_id=1,
        bos_token_id=1,
        pad_token_id=0,
    )
    return CLIPTextModelWithProjection(config).eval()
