"""Loading settings: presets, overrides, and the rules that values must follow."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conf import Settings, SettingsError, dump, load, load_recorded, presets
from tests.support.imported import imported


@pytest.mark.parametrize("preset", presets())
def test_every_preset_loads_and_survives_a_round_trip(preset: str, tmp_path: Path) -> None:
    settings = load(preset)
    dump(settings, tmp_path / "settings.yaml")
    assert load(str(tmp_path / "settings.yaml")) == settings
    assert settings.preset == preset


def test_scenes_is_what_the_defaults_describe() -> None:
    assert load("scenes") == Settings()


def test_flux_dev_holds_the_papers_values() -> None:
    paper = load("flux_dev")
    assert (paper.flux.lora_rank, paper.flux.lora_alpha, paper.flux.height) == (32, 64, 512)
    policy = paper.policy
    assert (policy.optimizer.lr, policy.algorithm.clip_range, policy.algorithm.kl_weight) == (3e-4, 1e-4, 0.01)
    assert (policy.group_size, policy.algorithm.top_k, policy.sampling.denoise_steps) == (24, 6, 6)
    assert policy.algorithm.advantage_std_over == "group"
    roles = (paper.preferences.writer, paper.preferences.perturber, paper.preferences.reviewer)
    assert roles == ("chat", "chat", "annotators")
    generators = paper.preferences.generators
    assert (generators.renderer, generators.qwen_image, generators.hunyuan_image, generators.seedream) == (0, 1, 1, 1)
    assert (paper.publish.benchmark_single_edit, paper.publish.benchmark_multi_edit) == (180, 185)
    assert (paper.reward.lr, paper.reward.batch_size, paper.evaluation.denoise_steps) == (2e-6, 32, 28)


def test_a_preset_holds_differences_from_its_base(tmp_path: Path) -> None:
    node, whole = load("flux_dev_8gpu"), load("flux_dev")
    assert node.reward == whole.reward and node.flux == whole.flux
    assert node.policy.learner.ranks == 8 and node.policy.learner.gpus + node.serving.gpus == 1
    (tmp_path / "mine.yaml").write_text("base: flux_dev_8gpu\npolicy: {algorithm: {top_k: 4}}\n")
    mine = load(str(tmp_path / "mine.yaml"), ["policy.algorithm.top_k=5"])
    assert (mine.preset, mine.policy.algorithm.top_k, mine.policy.learner.ranks) == ("mine", 5, 8)
    assert mine.flux == whole.flux


def test_a_base_may_be_a_file_beside_the_preset(tmp_path: Path) -> None:
    (tmp_path / "lower.yaml").write_text("policy: {seed: 3, iterations: 7}\n")
    (tmp_path / "upper.yaml").write_text("base: lower.yaml\npolicy: {seed: 4}\n")
    policy = load(str(tmp_path / "upper.yaml")).policy
    assert (policy.seed, policy.iterations) == (4, 7)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("policy.sampling.noise_level=0", "must be above 0, got 0"),
        ("policy.algorithm.top_k=20", "half of policy.group_size, got 20 of 24"),
        ("policy.algorithm.top_k=-1", "policy.algorithm.top_k must be at least 0, got -1"),
        ("policy.optimizer.steps_per_iteration=5", "must be divisible"),
        ("policy.learner.ranks=2", "needs policy.learner.engine=deepspeed"),
        ("policy.learner.zero_stage=3", "needs policy.learner.engine=deepspeed"),
        ("policy.algorithm.kl_weight=0.01", "set policy.algorithm.advantage_std_over=group"),
        ("policy.sampling.window=6", "between 0 and the 5 noisy steps, got 6"),
        ("policy.rollout.min_actors=3", "at most policy.rollout.max_actors, got 3 > 2"),
        ("policy.rollout.min_actors=0", "at least 1 with policy.placement=separate, got 0"),
        ("policy.evaluation.prompts=7", "must be even, got 7"),
        ("flux.height=70", "multiple of 16"),
        ("flux.height=0", "positive multiple of 16"),
        ("serving.max_replicas=0", "at least serving.min_replicas"),
        ("serving.host=0.0.0.0", "set serving.token_variable"),
        ("preferences.generated_fraction=0.9", "at most 1"),
        ("preferences.generators.renderer=0", "needs a weight above 0"),
        ("policy.rollout.gpus=-1", "policy.rollout.gpus must be at least 0, got -1"),
        ("policy.learner.gpus=-0.5", "policy.learner.gpus must be at least 0, got -0.5"),
        ("serving.gpus=-1", "serving.gpus must be at least 0, got -1"),
        ("detector.gpus=-1", "detector.gpus must be at least 0, got -1"),
        ("policy.rollout.gpus=1.5", "a whole number of GPUs, got 1.5: use 1 or 2"),
        ("policy.learner.gpus=2.25", "got 2.25: use 2 or 3"),
        ("serving.gpus=1.5", "serving.gpus must be a fraction of one GPU"),
        ("policy.rollout.cpus=-1", "policy.rollout.cpus must be at least 0"),
        ("policy.learner.cpus=0", "must not both be 0"),
        ("reward.weight_decay=-1", "reward.weight_decay must be at least 0"),
        ("reward.max_grad_norm=0", "reward.max_grad_norm must be above 0, got 0"),
        ("reward.lr=1", "reward.lr must be in (0, 1), got 1"),
        ("reward.min_workers=3", "got 3"),
        ("serving.threads=0", "serving.threads must be at least 1, got 0"),
        ("serving.batch_wait_s=-1", "serving.batch_wait_s must be at least 0"),
        ("writer.min_relations=13", "writer.max_relations must lie between"),
        ("writer.timeout=0", "writer.timeout must be above 0"),
        ("policy.optimizer.lr=0", "policy.optimizer.lr must be above 0, got 0.0"),
        ("policy.optimizer.lr=nan", "policy.optimizer.lr must be a finite number above 0, got nan"),
        ("policy.optimizer.lr=inf", "policy.optimizer.lr must be a finite number above 0, got inf"),
        ("policy.minutes=nan", "policy.minutes must be a finite number at least 0, got nan"),
        ("policy.optimizer.betas=[0.9,1.0]", "must both lie in [0, 1), got [0.9, 1.0]"),
        ("policy.optimizer.ema_decay=1.1", "must be in [0, 1], got 1.1"),
        ("review.annotators=[a]", "add names to review.annotators"),
        ("publish.version=1.0", "MAJOR.MINOR.PATCH, e.g. 1.0.0, got '1.0'"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused(override: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load("scenes", [override])
    assert expected in str(refused.value)
    assert str(refused.value).startswith("command line: ")


def test_both_diffusers_generators_name_their_own_section() -> None:
    for section in ("qwen_image", "hunyuan_image"):
        with pytest.raises(SettingsError, match=rf"{section}\.offload=model moves .* {section}\.gpus=0: reserve one"):
            load("scenes", [f"{section}.offload=model", f"{section}.gpus=0"])


def test_choices_are_checked_without_a_preset_too() -> None:
    with pytest.raises(SettingsError, match=r"policy\.resume must be one of auto, never, got 'nevr': did you mean"):
        replace(load().policy, resume="nevr")


def test_colocated_ranks_sample_with_what_they_learn() -> None:
    colocated = ["policy.placement=colocated", "policy.learner.engine=deepspeed"]
    with pytest.raises(SettingsError, match=r"policy\.max_staleness must be 0 .* got 1.*placement=separate"):
        load("scenes", [*colocated, "policy.max_staleness=1"])
    with pytest.raises(SettingsError, match=r"policy\.learner\.zero_stage must be 1 or 2 .* got 3.*use 2"):
        load("scenes", [*colocated, "policy.learner.zero_stage=3"])
    alone = ["policy.rollout.max_actors=0", "policy.rollout.min_actors=0", "policy.learner.ranks=5"]
    assert load("scenes", [*colocated, *alone]).policy.prompts_per_iteration % 5, "need not be divisible"


def test_several_ranks_need_a_gpu_each_or_none() -> None:
    ranks = ["policy.learner.ranks=2", "policy.learner.engine=deepspeed"]
    with pytest.raises(SettingsError, match=r"policy\.learner\.gpus must be above 0\.5 for policy\.learner\.ranks=2"):
        load("scenes", [*ranks, "policy.learner.gpus=0.5"])
    assert load("scenes", [*ranks, "policy.learner.gpus=0.6"]).policy.learner.gpus == 0.6
    assert load("scenes", ["policy.learner.gpus=0.5"]).policy.learner.gpus == 0.5
    assert load("scenes", [*ranks, "policy.learner.gpus=0"]).policy.learner.ranks == 2
    assert load("scenes", [*ranks, "policy.learner.gpus=2"]).policy.learner.gpus == 2


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        (["policy.optimizer.steps_per_iteration=5"], "policy.prompts_per_iteration", "use 10 or 15"),
        (["policy.sampling.batch=5"], "policy.sampling.batch", "use 4 or 6"),
        (["policy.sampling.batch=36"], "policy.sampling.batch", "use 24"),
    ],
)
def test_counts_that_do_not_divide_are_answered_with_the_nearest_that_do(
    overrides: list[str], key: str, fix: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load("scenes", overrides)
    assert str(refused.value).endswith(f": {fix}")
    for value in re.findall(r"\d+", fix):
        load("scenes", [*overrides, f"{key}={value}"])


def test_the_std_of_a_batch_excludes_a_kl_term_only() -> None:
    both = ["policy.algorithm.kl_weight=0.01", "policy.algorithm.advantage_std_over=group"]
    assert load("scenes", both).policy.algorithm.kl_weight == 0.01


def test_settings_import_neither_torch_nor_ray() -> None:
    assert not imported("conf", "conf.command", "conf.show") & {"torch", "ray", "actors", "pipelines"}


@pytest.mark.parametrize("package", ["conf", "actors", "pipelines"])
def test_packages_import_from_a_foreign_directory_that_holds_others_of_the_same_name(
    package: str, tmp_path: Path
) -> None:
    """The names are generic; an editable install or Ray's working_dir must win over an unrelated folder."""
    (tmp_path / "elsewhere").mkdir()
    program = f"import {package}, pathlib; print(pathlib.Path({package}.__file__).resolve().parent.parent)"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=True
    )
    assert Path(shown.stdout.strip()) == Path(__file__).resolve().parents[2]


def test_a_recorded_default_of_a_retired_setting_is_left_out_and_another_value_is_refused(tmp_path: Path) -> None:
    """A run of an earlier version goes on."""
    recorded = tmp_path / "settings.yaml"
    recorded.write_text("preset: scenes\npublish:\n  hub: ''\n  hub_private: true\n  version: 2.0.0\n")
    assert load_recorded(recorded).publish.version == "2.0.0"
    recorded.write_text("preset: scenes\npublish:\n  hub: me/pairs\n")
    with pytest.raises(SettingsError, match=r"no setting 'publish\.hub': did you mean push\.repo\?"):
        load_recorded(recorded)
