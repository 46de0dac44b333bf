"""The shipped checkpoints are small, load as library classes, and place objects as badly as documented."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from transformers import Qwen2_5_VLForConditionalGeneration

from pipelines.pretrain.measure import check_images
from pipelines.scenes import CHECKPOINTS, checkpoints_dir
from pipelines.scenes.checker import Verdict
from pipelines.scenes.grammar import held_out_prompts


@cache
def verdicts(long: bool) -> list[Verdict]:
    """The checker's results for images of held-out prompts by the shipped base."""
    torch.set_num_threads(2)
    pipeline = FluxPipeline.from_pretrained(checkpoints_dir("flux"))
    return check_images(pipeline, held_out_prompts(60, long, seed=5) * 4, seed=0)


def test_both_checkpoints_together_stay_under_16_megabytes() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < 16e6


def test_the_base_vlm_loads_as_its_library_class() -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoints_dir("qwen2_5_vl"))
    vision = model.config.to_dict()["vision_config"]
    assert vision["patch_size"] * vision["spatial_merge_size"] == 16


@pytest.mark.parametrize(("long", "min_present"), [(False, 0.95), (True, 0.9)])
def test_the_base_shows_objects_more_reliably_than_relations(long: bool, min_present: float) -> None:
    present = [value for verdict in verdicts(long) for value in verdict.present.values()]
    outcomes = [value for verdict in verdicts(long) for value in verdict.outcomes]
    right, reverse = outcomes.count("right") / len(outcomes), outcomes.count("reversed") / len(outcomes)
    print(f"objects {np.mean(present):.3f}, relations right {right:.3f}, reversed {reverse:.3f}")
    assert np.mean(present) > max(min_present, right)
    assert 0.35 < right < 0.6
    assert right > 2 * reverse


def test_the_base_shows_93_percent_of_the_objects() -> None:
    present = [value for long in (False, True) for verdict in verdicts(long) for value in verdict.present.values()]
    assert np.mean(present) >= 0.93
