"""The shipped FluxPipeline."""

from __future__ import annotations

import pytest
from diffusers import FluxPipeline

from pipelines.scenes import checkpoints_dir


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    """A fresh copy for each module."""
    return FluxPipeline.from_pretrained(checkpoints_dir("flux"))
