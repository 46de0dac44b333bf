"""A run is resumed only with the settings and inputs that it was started with, except those that may change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conf import UserError, load
from pipelines.policy.checkpoint import Manifest
from pipelines.policy.resume import RESUME_MAY_CHANGE, check_resumable, run_identity, training_settings

ELSEWHERE = [
    "policy.minutes=3",
    "policy.evaluation.every=7",
    "policy.checkpoint.keep=9",
    "policy.rollout.max_actors=9",
    "policy.rollout.gpus=0.5",
    "policy.learner.gpus=0.5",
    "policy.learner.placement=spread",
    "policy.learner.replay_batch=0",
    "policy.sampling.batch=12",
    "policy.algorithm.ratio_tolerance=1e-3",
    "flux.compile=true",
    "flux.checkpoint_every=1",
]
"""Settings of placement, records and rounding."""


def test_placement_records_and_rounding_may_change() -> None:
    manifest = Manifest(5, 1.0, run_identity(load("scenes")))
    check_resumable(manifest, load("scenes", ELSEWHERE))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.group_size=12", r"policy\.group_size was 24 and is 12"),
        ("policy.algorithm.clip_range=1", r"policy\.algorithm\.clip_range was 0\.\d+ and is 1\.0"),
        ("policy.optimizer.betas=[0.9,0.9]", r"policy\.optimizer\.betas was \[0\.9, 0\.99\] and is \[0\.9, 0\.9\]"),
        ("flux.lora_rank=8", r"flux\.lora_rank was 16 and is 8"),
        ("detector.margin=0.2", r"detector\.margin was 0\.1 and is 0\.2"),
        ("rewards.rules=1", r"rewards\.rules was 0\.0 and is 1\.0.*policy\.resume=never"),
    ],
)
def test_what_decides_the_result_may_not_change(override: str, message: str) -> None:
    manifest = Manifest(5, 1.0, run_identity(load("scenes")))
    with pytest.raises(UserError, match=message):
        check_resumable(manifest, load("scenes", [override]))


def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default() -> None:
    settings = load("scenes")
    known = {name: value for name, value in run_identity(settings).items() if name != "flux.lora_rank"}
    check_resumable(Manifest(5, 1.0, known), settings)
    with pytest.raises(UserError, match=r"flux\.lora_rank was 16 and is 8"):
        check_resumable(Manifest(5, 1.0, known), replace(settings, flux=replace(settings.flux, lora_rank=8)))


def test_every_setting_that_may_change_exists() -> None:
    """Otherwise a renamed setting would become fixed without notice."""
    settings = load("scenes")
    for name in RESUME_MAY_CHANGE:
        value: object = settings
        for part in name.split("."):
            value = vars(value)[part]
    assert "policy.rollout.cpus" not in training_settings(settings)
    assert "policy.learner.ranks" in training_settings(settings)


def test_inputs_are_compared_by_content(tmp_path: Path) -> None:
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "weights").write_bytes(b"one")
    (tmp_path / "prompts.jsonl").write_text('{"text": "a dog"}')
    given = [f"run_dir={tmp_path}", f"serving.model={tmp_path / 'score'}", f"policy.prompts={tmp_path}/prompts.jsonl"]
    settings = load("flux_dev", given)
    manifest = Manifest(7, 1.0, run_identity(settings))
    with pytest.raises(UserError, match=r"policy\.learner\.ranks was 12 and is 1"):
        check_resumable(manifest, load("flux_dev", [*given, "policy.learner.ranks=1"]))
    with pytest.raises(UserError, match=r"the base was 'black-forest-labs/FLUX.1-dev' and is 'another'"):
        check_resumable(manifest, load("flux_dev", [*given, "flux.model=another"]))
    with pytest.raises(UserError, match=r"the judge was '' and is 'gpt-5'"):
        check_resumable(manifest, load("flux_dev", [*given, "rewards.judge=1"]))
    (tmp_path / "score" / "weights").write_bytes(b"two")
    with pytest.raises(UserError, match=r"SpatialScore was '[0-9a-f]{12}' and is .*policy\.resume=never"):
        check_resumable(manifest, settings)
    (tmp_path / "score" / "weights").write_bytes(b"one")
    (tmp_path / "prompts.jsonl").write_text('{"text": "a cat"}')
    with pytest.raises(UserError, match=r"the file policy\.prompts was"):
        check_resumable(manifest, settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.sampling.batch=5", "must divide policy.group_size, got 5 and 24.*: use 4 or 6"),
        (
            "policy.rollout.min_actors=3",
            "policy.rollout.min_actors must be at most policy.rollout.max_actors, got 3 > 2",
        ),
        ("policy.optimizer.steps_per_iteration=5", "prompts_per_iteration must be divisible by .*: use 10 or 15"),
    ],
)
def test_counts_that_do_not_fit_each_other_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("scenes", [override])
