"""A run that cannot start is refused before anything is started, with one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import SettingsError, UserError, load
from pipelines.policy.rewards import start_rewards
from pipelines.policy.sample import sample_images
from pipelines.policy.train import check_start


@pytest.mark.parametrize("prompts", ["none.jsonl", "empty.jsonl"])
def test_a_run_without_prompts_is_refused_without_ray(prompts: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=rf"policy\.prompts.*{prompts}"):
        check_start(load("flux_dev", [f"policy.prompts={tmp_path / prompts}"]))


@pytest.mark.ray
def test_a_run_that_a_private_cluster_cannot_hold_is_refused(ray_cluster: None, tmp_path: Path) -> None:
    """The test session's Ray has four CPUs and no GPU."""
    overrides = [f"run_dir={tmp_path}", "policy.learner.gpus=1"]
    with pytest.raises(UserError, match=r"a run needs 1 learner ranks of 0\.1 CPUs and 1 GPUs, but only 0 of the 1"):
        check_start(load("scenes", overrides))
    check_start(load("scenes", [f"run_dir={tmp_path}"]))


def test_the_exact_checker_is_refused_outside_the_scenes_world() -> None:
    with pytest.raises(SettingsError, match=r"rewards\.rules can check images of the scenes world only"):
        start_rewards(load("flux_dev", ["rewards.rules=1"]))


def test_a_reward_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no SpatialScore at .*run `spatialt2i reward train` first"):
        start_rewards(load("scenes", [f"run_dir={tmp_path}"]))


def test_sampling_needs_a_text_and_an_exported_policy(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sample\.text must not be empty"):
        sample_images(load("scenes", [f"run_dir={tmp_path}"]))
    with pytest.raises(SettingsError, match=r"sample\.text must not be empty"):
        sample_images(load("scenes", [f"run_dir={tmp_path}", "sample.text=[a red circle, ' ']"]))
    with pytest.raises(SettingsError, match=r"sample\.out names one file, got 2 texts"):
        sample_images(load("scenes", [f"run_dir={tmp_path}", "sample.text=[a, b]", "sample.out=x.png"]))
    with pytest.raises(UserError, match=r"no complete checkpoint at .*run `spatialt2i policy train` first"):
        sample_images(load("scenes", [f"run_dir={tmp_path}", "sample.text=a red circle"]))
