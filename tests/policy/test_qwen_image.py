"""Stage 3 from end to end on the second model family: train, export, and sample by base and tuned policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf import Settings
from conf.evaluation import SampleSettings
from conf.flux import FluxSettings
from pipelines.policy.sample import sample_images
from pipelines.policy.train import train_policy
from tests.support.rewards import RednessPool


@pytest.mark.ray
def test_qwen_image_is_trained_and_sampled(
    rewards: RednessPool, settings_of: Callable[..., Settings], qwen_image_flux: FluxSettings, tmp_path: Path
) -> None:
    settings = replace(
        settings_of(tmp_path, "policy.iterations=2", "policy.learner.replay_batch=0"), flux=qwen_image_flux
    )
    result = train_policy(settings, rewards, lambda line: None)
    assert result.version == 2
    assert (result.export / "pytorch_lora_weights.safetensors").is_file()
    sampled = replace(settings, sample=SampleSettings(("a red circle left of a blue square",), images=2))
    (sheet,) = sample_images(sampled)
    grid = np.asarray(Image.open(sheet))
    base, tuned = np.split(grid[: grid.shape[0] // 2 * 2], 2)
    assert grid.shape[1] > 2 * 64
    assert not np.array_equal(base[:, 64:], tuned[:, 64:])
