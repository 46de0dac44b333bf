"""A FLUX pipeline with the widths of FLUX.1-dev, few blocks, one-layer text encoders, and random weights."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tests.support.tiny_flux import WORDS, word_tokenizer


@contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    """New parameters have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def full_width_pipeline(dtype: torch.dtype, double_blocks: int, single_blocks: int) -> FluxPipeline:
    """Width 3072, 24 heads, T5 width 4096, CLIP width 768; 0.2 GB a double block and 0.1 GB a single one in bfloat16.

    The VAE is small: only latents are compared.
    """
    torch.manual_seed(0)
    with default_dtype(dtype):
        transformer = FluxTransformer2DModel(
            num_layers=double_blocks, num_single_layers=single_blocks, guidance_embeds=True
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        )
        clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(WORDS), hidden_size=768, intermediate_size=768, num_hidden_layers=1,
                num_attention_heads=12, projection_dim=768, eos_token_id=1, bos_token_id=1, pad_token_id=0,
            )
        )  # fmt: skip
        t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(WORDS), d_model=4096, d_kv=64, d_ff=1024, num_layers=1, num_heads=64,
                eos_token_id=1, pad_token_id=0,
            )
        )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    pipeline = FluxPipeline(
        scheduler, vae.eval(), clip.eval(), word_tokenizer(77), t5.eval(), word_tokenizer(512), transformer.eval()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
