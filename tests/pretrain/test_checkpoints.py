"""The shipped checkpoints: real formats, small, and as good and as bad as the README says."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from transformers import Qwen2_5_VLForConditionalGeneration

from pipelines.pretrain.checker_error import error_rate, truth_scenes
from pipelines.pretrain.flux import judge
from pipelines.pretrain.vae import decode, encode
from pipelines.scenes import CHECKPOINTS, checkpoints_dir
from pipelines.scenes.checker import Verdict
from pipelines.scenes.grammar import held_out_prompts


@cache
def verdicts(long: bool) -> list[Verdict]:
    torch.set_num_threads(2)
    pipeline = FluxPipeline.from_pretrained(checkpoints_dir("flux"))
    return judge(pipeline, held_out_prompts(60, long, seed=5) * 4, seed=0)


def test_both_checkpoints_together_stay_under_16_megabytes() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < 16e6


def test_the_base_vlm_loads_as_its_library_class() -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoints_dir("qwen2_5_vl"))
    assert model.config.vision_config.patch_size * model.config.vision_config.spatial_merge_size == 16


@pytest.mark.parametrize(
    ("long", "least_present", "right_between"), [(False, 0.95, (0.35, 0.6)), (True, 0.9, (0.35, 0.6))]
)
def test_the_base_draws_better_than_it_places(
    long: bool, least_present: float, right_between: tuple[float, float]
) -> None:
    present = [value for verdict in verdicts(long) for value in verdict.present.values()]
    outcomes = [value for verdict in verdicts(long) for value in verdict.outcomes]
    right, reverse = outcomes.count("right") / len(outcomes), outcomes.count("reversed") / len(outcomes)
    print(f"objects {np.mean(present):.3f}, relations right {right:.3f}, reversed {reverse:.3f}")
    assert np.mean(present) > max(least_present, right)
    assert right_between[0] < right < right_between[1]
    assert right > 2 * reverse


def test_the_base_draws_93_of_100_objects_that_it_is_asked_for() -> None:
    named = [value for long in (False, True) for verdict in verdicts(long) for value in verdict.present.values()]
    assert np.mean(named) >= 0.93


def test_the_checkers_error_rate_after_a_vae_round_trip_is_under_one_percent() -> None:
    vae = AutoencoderKL.from_pretrained(checkpoints_dir("flux") / "vae")
    placements, images = truth_scenes(1500, 12)
    measured = error_rate(placements, decode(vae, encode(vae, images)))
    print(f"checker, VAE round trip: {measured.wrong} of {measured.pictures} pictures misread")
    assert measured.rate < 0.01
