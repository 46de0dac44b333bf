"""Slow: stage 3 from end to end on every family with classifier-free guidance: two versions, export, sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf import Settings
from conf.evaluation import SampleSettings
from pipelines.policy.sample import sample_images
from pipelines.policy.train import train_policy
from tests.support.rewards import RednessPool
from tests.support.tiny_families import TinyFamily


@pytest.mark.ray
@pytest.mark.slow
def test_it_is_trained_and_sampled(
    rewards: RednessPool, settings_of: Callable[..., Settings], tiny: TinyFamily, tmp_path: Path
) -> None:
    small = ("policy.iterations=2", "policy.learner.replay_batch=0", "policy.optimizer.lr=0.01")
    settings = replace(settings_of(tmp_path, *small), flux=tiny.flux)
    result = train_policy(settings, rewards, lambda line: None)
    assert result.version == 2
    assert (result.export / "pytorch_lora_weights.safetensors").is_file()
    card = (result.export / "README.md").read_text()
    assert "guidance_scale=" in card and "FluxPipeline" not in card
    sampled = replace(settings, sample=SampleSettings(("a red circle left of a blue square",), images=2))
    (sheet,) = sample_images(sampled)
    grid = np.asarray(Image.open(sheet))
    base, tuned = np.split(grid[: grid.shape[0] // 2 * 2], 2)
    assert grid.shape[1] > 2 * 64
    assert not np.array_equal(base[:, 64:], tuned[:, 64:])
