"""Settings: every preset loads, a round trip is exact, and bad input is refused with rule, value and suggestion."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from conf import Settings, SettingsError, dump, load, presets


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
    assert (policy.lr, policy.clip_range, policy.kl_weight) == (3e-4, 1e-4, 0.01)
    assert (policy.group_size, policy.top_k, policy.steps) == (24, 6, 6)
    mix = paper.preferences.mix
    assert (paper.preferences.writer, paper.preferences.perturber, paper.preferences.reviewer) == (
        "chat",
        "chat",
        "people",
    )
    assert (mix.renderer, mix.qwen_image, mix.hunyuan_image, mix.seedream) == (0, 1, 1, 1)
    assert (paper.preferences.benchmark_one, paper.preferences.benchmark_more) == (180, 185)
    assert (paper.reward.lr, paper.reward.batch_size, paper.evaluation.steps) == (2e-6, 32, 28)


def test_a_preset_holds_differences_from_its_base(tmp_path: Path) -> None:
    node, whole = load("flux_dev_8gpu"), load("flux_dev")
    assert node.reward == whole.reward and node.flux == whole.flux
    assert node.policy.rollout_actors + node.policy.learner_ranks + node.pool.max_replicas == 8
    (tmp_path / "mine.yaml").write_text("base: flux_dev_8gpu\npolicy: {top_k: 4}\n")
    mine = load(str(tmp_path / "mine.yaml"), ["policy.top_k=5"])
    assert (mine.preset, mine.policy.top_k, mine.policy.rollout_actors, mine.flux) == ("mine", 5, 5, whole.flux)
    (tmp_path / "lost.yaml").write_text("base: flux_dv\n")
    with pytest.raises(SettingsError, match=r"base must be a preset: did you mean flux_dev\?"):
        load(str(tmp_path / "lost.yaml"))


def test_every_value_of_flux_dev_is_marked() -> None:
    lines = (Path(__file__).parents[2] / "conf" / "flux_dev.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r" *[a-z_]+: +[^|\s]", line)]  # leaves, block texts left out
    unmarked = [line for line in values if "# paper" not in line and "# choice" not in line]
    assert unmarked == ["preset: flux_dev"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("policy.lrr=1", "Did you mean: 'lr'"),
        ("policy.lr=fast", "'fast'"),
        ("policy.transition=flow_sd", "did you mean flow_sde?"),
        ("policy.top_k=20", "half of policy.group_size, got 20 of 24"),
        ("policy.noise_level=0", "must be above 0, got 0"),
        ("policy.updates_per_iteration=5", "must divide"),
        ("policy.learner_ranks=2", "needs policy.engine=deepspeed"),
        ("policy.zero_stage=3", "needs policy.engine=deepspeed"),
        ("flux.height=70", "multiple of 16"),
        ("reward.loss=btt", "did you mean bt?"),
        ("pool.max_replicas=0", "at least pool.min_replicas"),
        ("preferences.generated_fraction=0.9", "at most 1"),
        ("policy.steps", "section.key=value"),
        ("ablation.variants=base,top-4", "write 'ablation.variants=[base,top-4]', in quotes"),
        ("policy.initial_noise=shard", "did you mean shared?"),
        ("policy.rollout_gpus=-1", "policy.rollout_gpus must be at least 0.0, got -1"),
        ("policy.learner_gpus=-0.5", "policy.learner_gpus must be at least 0.0, got -0.5"),
        ("pool.gpus=-1", "pool.gpus must be at least 0.0, got -1"),
        ("detector.gpus=-1", "detector.gpus must be at least 0.0, got -1"),
        ("policy.rollout_gpus=1.5", "a whole number of them, got 1.5: take 1 or 2"),
        ("policy.learner_gpus=2.25", "got 2.25: take 2 or 3"),
        ("pool.gpus=1.5", "pool.gpus must be a share of one GPU"),
        ("detector.gpus=1.5", "detector.gpus must be a share of one GPU"),
        ("policy.rollout_cpus=-1", "policy.rollout_cpus must be at least 0"),
        ("policy.learner_cpus=-1", "policy.learner_cpus must be at least 0"),
        ("policy.learner_cpus=0", "must not both be 0"),
        ("pool.cpus=-1", "pool.cpus must be at least 0"),
        ("detector.cpus=-1", "detector.cpus must be at least 0"),
        ("reward.cpus_per_worker=-1", "reward.cpus_per_worker must be at least 0"),
        ("reward.weight_decay=-1", "reward.weight_decay must be at least 0"),
        ("reward.max_grad_norm=0", "reward.max_grad_norm must be above 0, got 0"),
        ("pool.threads=0", "pool.threads must be at least 1, got 0"),
        ("detector.threads=0", "detector.threads must be at least 1, got 0"),
        ("pool.max_ongoing_requests=0", "pool.max_ongoing_requests must be at least 1"),
        ("pool.batch_wait_s=-1", "pool.batch_wait_s must be at least 0"),
        ("pool.upscale_delay_s=-1", "pool.upscale_delay_s must be at least 0"),
        ("pool.target_ongoing_requests=0", "pool.target_ongoing_requests must be above 0, got 0"),
        ("policy.lr=0", "policy.lr must be above 0, got 0.0: raise it"),
        ("policy.lr=nan", "policy.lr must be above 0, got nan"),
        ("policy.clip_range=0", "policy.clip_range must be above 0"),
        ("policy.max_grad_norm=0", "policy.max_grad_norm must be above 0"),
        ("policy.weight_decay=-0.1", "policy.weight_decay must be at least 0"),
        ("policy.kl_weight=-0.1", "policy.kl_weight must be at least 0"),
        ("policy.ratio_tolerance=-1e-6", "policy.ratio_tolerance must be at least 0"),
        ("policy.betas=[0.9,1.0]", "policy.betas must both lie in [0, 1), got [0.9, 1.0]"),
        ("policy.betas=[-0.1,0.9]", "got [-0.1, 0.9]: take e.g. [0.9, 0.99]"),
    ],
)
def test_bad_values_are_refused_with_the_rule_and_the_value(override: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load("scenes", [override])
    assert expected in str(refused.value)


def test_ranks_share_no_gpu_but_one_may_and_many_may_do_without() -> None:
    ranks = ["policy.learner_ranks=2", "policy.engine=deepspeed"]
    with pytest.raises(
        SettingsError, match=r"policy\.learner_gpus must be whole for policy\.learner_ranks=2, got 0\.5"
    ):
        load("scenes", [*ranks, "policy.learner_gpus=0.5"])
    assert load("scenes", ["policy.learner_gpus=0.5"]).policy.learner_gpus == 0.5
    assert load("scenes", [*ranks, "policy.learner_gpus=0"]).policy.learner_ranks == 2
    assert load("scenes", [*ranks, "policy.learner_gpus=2"]).policy.learner_gpus == 2


@pytest.mark.parametrize(
    ("overrides", "mend"),
    [
        (["policy.updates_per_iteration=5"], "take 10 or 15"),
        (["policy.updates_per_iteration=5", "policy.sampling_groups=4"], "take 20"),
        (["policy.sampling_groups=5"], "take 4 or 6"),
        (["policy.sampling_groups=13"], "take 12"),
        (["policy.sampling_rows=5"], "take 4 or 6"),
        (["policy.sampling_rows=36"], "take 24"),
        (["policy.sampling_rows=36", "policy.sampling_groups=4"], "take 24 or 48"),
        (["policy.sampling_rows=72", "policy.sampling_groups=4"], "take 48 or 96"),
    ],
)
def test_counts_that_do_not_divide_are_answered_with_the_nearest_that_do(overrides: list[str], mend: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load("scenes", overrides)
    assert str(refused.value).endswith(f": {mend}")
    name = re.search(r"(policy\.\w+) must", str(refused.value))
    assert name
    for value in re.findall(r"\d+", mend):
        load("scenes", [*overrides, f"{name[1]}={value}"])


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean flux_dev"):
        load("flux_dv")


def test_settings_import_neither_torch_nor_ray() -> None:
    program = "import sys, conf; sys.exit(bool({'torch', 'ray', 'actors', 'pipelines'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("package", ["conf", "actors", "pipelines"])
def test_packages_import_from_a_foreign_directory_that_holds_others_of_the_same_name(
    package: str, tmp_path: Path
) -> None:
    """The names are generic; an editable install or Ray's working_dir must win over an unrelated folder, or be told."""
    (tmp_path / "elsewhere").mkdir()
    program = f"import {package}, pathlib; print(pathlib.Path({package}.__file__).resolve().parent.parent)"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=True
    )
    assert Path(shown.stdout.strip()) == Path(__file__).resolve().parents[2]
