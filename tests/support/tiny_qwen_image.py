"""A QwenImagePipeline of the real classes with random weights, small enough to test on one core, and its fixtures.

A conftest imports the fixtures from here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from actors.policy.base import Policy
from actors.policy.registry import load_policy
from conf import load
from conf.flux import FluxSettings
from pipelines.pretrain.vlm_model import build_model, build_tokenizer
from tests.support.plain_pipeline import NEGATIVE_PROMPT


def qwen_image_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The noise schedule of Qwen/Qwen-Image."""
    return FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )


def random_qwen_image_pipeline(seed: int = 0) -> QwenImagePipeline:
    """64 x 64 pixels, 16 image tokens of 16 channels, width 48; the schedule of Qwen/Qwen-Image."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=96,
        axes_dims_rope=(4, 6, 6),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 2.0, 1.5, 0.5],
    )
    return QwenImagePipeline(
        qwen_image_scheduler(), vae.eval(), build_model(tokenizer).eval(), tokenizer, transformer.eval()
    )


def save_random_qwen_image(directory: Path) -> Path:
    """Writes the pipeline in diffusers format and returns its directory."""
    random_qwen_image_pipeline().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def qwen_image_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QwenImagePipeline directory with random weights."""
    return save_random_qwen_image(tmp_path_factory.mktemp("qwen_image"))


@pytest.fixture(scope="session")
def qwen_image_flux(qwen_image_directory: Path) -> FluxSettings:
    """The preset's LoRA on the tiny model."""
    overrides = ("height=64", "width=64", "dtype=float32", "max_sequence_length=24", f"model={qwen_image_directory}")
    negative = f"negative_prompt={NEGATIVE_PROMPT}"  # the tiny tokenizer has no token for a blank
    return load("qwen_image", [f"flux.{override}" for override in (*overrides, negative)]).flux


@pytest.fixture
def qwen_image(qwen_image_directory: Path, qwen_image_flux: FluxSettings) -> Policy:
    """A fresh policy with an untrained LoRA."""
    return load_policy(str(qwen_image_directory), qwen_image_flux)
