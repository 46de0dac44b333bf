from __future__ import annotations

from pathlib import Path

import pytest

from actors.policy.base import Policy
from actors.policy.registry import load_policy
from conf import load
from conf.flux import FluxSettings
from tests.support.tiny_qwen_image import save_random_qwen_image


@pytest.fixture(scope="session")
def qwen_image_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QwenImagePipeline directory with random weights."""
    return save_random_qwen_image(tmp_path_factory.mktemp("qwen_image"))


@pytest.fixture(scope="session")
def qwen_image_flux(qwen_image_directory: Path) -> FluxSettings:
    """The preset's LoRA on the tiny model."""
    overrides = ("height=64", "width=64", "dtype=float32", "max_sequence_length=24", f"model={qwen_image_directory}")
    return load("qwen_image", [f"flux.{override}" for override in overrides]).flux


@pytest.fixture
def qwen_image(qwen_image_directory: Path, qwen_image_flux: FluxSettings) -> Policy:
    """A fresh policy with an untrained LoRA."""
    return load_policy(str(qwen_image_directory), qwen_image_flux)
