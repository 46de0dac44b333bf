"""A FLUX pipeline of the real classes with random weights, small enough to test on one core, and its fixtures.

A conftest imports the fixtures `flux_directory` and `policy` from here.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from conf.flux import FluxSettings

torch.set_num_threads(1)

TEXTS = ["a red circle left of a blue square", "a green triangle above a red square and left of a blue circle"]

WORDS = [
    "<pad>", "</s>", "<unk>", "a", "and", "is", "that", "left", "right", "of", "above", "below",
    "red", "green", "blue", "yellow", "purple", "orange", "circle", "square", "triangle",
]  # fmt: skip


def word_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of WORDS for at most `length` tokens."""
    words = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )


def random_vae(latent_channels: int) -> AutoencoderKL:
    """The VAE of 64 x 64 pixels, of latents 8 x 8."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        norm_num_groups=4,
        layers_per_block=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.7,
        shift_factor=0.1,
        sample_size=64,
    )


def random_t5(width: int) -> T5EncoderModel:
    """T5's encoder for WORDS."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(WORDS),
            d_model=width,
            d_kv=32,
            d_ff=128,
            num_layers=2,
            num_heads=2,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def random_flux_pipeline(seed: int = 0) -> FluxPipeline:
    """64 x 64 pixels, 16 image tokens of 32 channels, width 96, 1 million parameters, shift 3."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=32,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    vae = random_vae(latent_channels=8)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=24,
            projection_dim=64,
            eos_token_id=1,
            bos_token_id=1,
            pad_token_id=0,
        )
    )
    t5 = random_t5(width=64)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=math.log(3), max_shift=math.log(3)
    )
    return FluxPipeline(
        scheduler, vae, clip.eval(), word_tokenizer(24), t5.eval(), word_tokenizer(24), transformer.eval()
    )


def save_random_flux(directory: Path) -> Path:
    """Writes the pipeline in diffusers format and returns its directory."""
    random_flux_pipeline().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def flux_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FluxPipeline directory with random weights."""
    return save_random_flux(tmp_path_factory.mktemp("flux"))


@pytest.fixture
def policy(flux_directory: Path) -> FluxPolicy:
    """A fresh policy with an untrained LoRA."""
    return FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(model=str(flux_directory)))


def perturb_lora(policy: Policy, scale: float, seed: int = 0) -> None:
    """Adds Gaussian noise to the LoRA in place, as training would change it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trainable().values():
        parameter.data += scale * torch.randn(parameter.shape, generator=generator)
