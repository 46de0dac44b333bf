"""Only a SpatialScore whose present weights have passed the sanity checks may train a policy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conf import Settings, UserError, load
from pipelines.common.paths import run_paths
from pipelines.policy.train import run_policy
from pipelines.reward.locations import has_incomplete_images, pair_source
from pipelines.reward.sanity_checks import excuse_unseen, table
from pipelines.reward.sanity_report import SanityCheck, require_passed, write_sanity_report
from tests.support.scene_pairs import write_scene_pairs
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

PASSED = SanityCheck("mirror", passed=True, value=0.0, requirement="at least 0", if_failed="")
FAILED = replace(PASSED, name="2 x 2", passed=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run that has a SpatialScore."""
    save_tiny_vlm(tmp_path / "vlm")
    settings = load("scenes", [f"run_dir={tmp_path}"])
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(run_paths(settings).reward_model)
    return settings


def test_an_unchecked_model_trains_no_policy(settings: Settings) -> None:
    with pytest.raises(
        UserError, match=r"were not run: run `spatialt2i reward check`, or set serving\.skip_sanity_checks"
    ):
        run_policy(settings)
    require_passed(replace(settings, serving=replace(settings.serving, skip_sanity_checks=True)))


def test_a_model_that_failed_a_check_trains_no_policy(settings: Settings) -> None:
    write_sanity_report(settings, [PASSED, FAILED])
    with pytest.raises(UserError, match=r"failed sanity checks: 2 x 2\."):
        run_policy(settings)


def test_a_failure_for_want_of_incomplete_images_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    """By the paper's recipe no loser lacks an object. A check that needs such losers counts if there are some."""
    failed = (*(replace(FAILED, name=name) for name in ("shuffled prompts", "blank image", "noise image")), PASSED)
    excused = excuse_unseen(failed)
    write_sanity_report(settings, excused)
    require_passed(settings)
    assert [check.blocks for check in (*failed, *excused)] == [True] * 3 + [False] * 5
    assert "! blank image" in table(excused) and table(excused).count("no training pair of this run") == 3
    assert [check.blocks for check in excuse_unseen([FAILED])] == [True], "it needs changed relations only"
    pairs = run_paths(settings).preferences
    write_scene_pairs(pairs, 10)
    assert not has_incomplete_images(pair_source(settings))
    write_scene_pairs(pairs, 5, "corrupted", first=10)
    assert has_incomplete_images(pair_source(settings))


def test_a_checked_model_may_train_the_policy_of_its_run_and_of_other_runs(settings: Settings, tmp_path: Path) -> None:
    write_sanity_report(settings, [PASSED])
    require_passed(settings)
    model = run_paths(settings).reward_model
    require_passed(load("scenes", [f"run_dir={tmp_path / 'other'}", f"serving.model={model}"]))
    report = json.loads(run_paths(settings).sanity_checks.read_text())
    assert [check["name"] for check in report["checks"]] == ["mirror"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": 1, "checks": []}', '{"weights": "x", "checks": [1]}'])
def test_a_damaged_report_does_not_count(content: str, settings: Settings) -> None:
    run_paths(settings).sanity_checks.write_text(content)
    with pytest.raises(UserError, match="were not run"):
        require_passed(settings)


def test_a_check_does_not_count_for_other_weights(settings: Settings) -> None:
    write_sanity_report(settings, [PASSED])
    head = run_paths(settings).reward_model / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="were not run"):
        require_passed(settings)
