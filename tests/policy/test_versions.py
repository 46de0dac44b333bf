"""Which versions of a policy are kept, and that each can be exported, sampled and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from actors.workers.sampling_calls import WeightsHandle
from conf import Settings, SettingsError, UserError, load
from conf.policy import STATISTICS
from pipelines.common.paths import run_paths
from pipelines.policy import train as train_module
from pipelines.policy import training_run
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.export import export_chosen, provide_export
from pipelines.policy.held_out import HeldOutEvaluation
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.train import train_policy
from pipelines.policy.training_run import TrainingRun
from pipelines.policy.versions import (
    ExportRecord,
    check_export_after_training,
    choose_version,
    finished_version,
    read_export_record,
)
from tests.support.rewards import RednessPool

HELD_OUT_REWARD = {0: 9.0, 1: 1.0, 2: 5.0, 3: 2.0, 4: 3.0}
"""Version -> its reward in the tests below: version 2 is the best trained one."""


class ScriptedEvaluation(HeldOutEvaluation):
    """The evaluation, with rewards that are known."""

    async def run(self, weights: WeightsHandle, training_seconds: float) -> tuple[EvaluationRow, Image.Image]:
        row, images = await super().run(weights, training_seconds)
        return replace(row, reward_mean=HELD_OUT_REWARD[row.iteration]), images


class Stopped(TrainingRun):
    """A run that ends as if it was killed, after version 3 and before its evaluation."""

    async def evaluate_if_due(self) -> None:
        if self.version == 3:
            raise KeyboardInterrupt
        await super().evaluate_if_due()


def chosen(settings: Settings, version: object) -> Settings:
    return replace(settings, export=replace(settings.export, version=str(version)))


@pytest.mark.ray
def test_the_best_version_is_kept_beside_the_newest_and_survives_a_kill(
    rewards: RednessPool, settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "HeldOutEvaluation", ScriptedEvaluation)
    prompts = settings_of(tmp_path).policy.prompts
    settings = settings_of(
        tmp_path, "policy.checkpoint.keep=1", "policy.checkpoint.every=4", "policy.evaluation.every=1",
        "policy.evaluation.prompts=4", f"policy.held_out_prompts={prompts}",
    )  # fmt: skip
    messages: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "TrainingRun", Stopped)
        with pytest.raises(KeyboardInterrupt):
            train_policy(settings, rewards, messages.append)
    assert choose_version(settings) == 2  # the newest complete one: that of version 3 may have been lost
    assert finished_version(settings) is None
    result = train_policy(settings, rewards, messages.append)

    assert any(message.startswith("continues from version ") for message in messages)
    assert run_checkpoints(settings).complete() == [2, 4]
    rows = read_evaluations(run_paths(settings).evaluations)
    assert [(row.iteration, row.best_iteration) for row in rows] == [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2)]
    assert all(row.measures.keys() == set(STATISTICS) for row in rows)
    assert all(np.isfinite(each["mean"]) for row in rows for each in row.measures.values())
    assert (choose_version(settings), choose_version(chosen(settings, "best"))) == (None, 2)
    with pytest.raises(UserError, match=r"export\.version=3: that version was not kept: choose one of 2 \(best\), 4$"):
        choose_version(chosen(settings, 3))

    best, newest = export_chosen(chosen(settings, "best")), provide_export(settings)
    assert (best.export, newest.export) == (tmp_path / "policy" / "exports" / "2", result.export)
    assert read_export_record(best.export) == ExportRecord(2, moving_average=True)
    assert read_export_record(newest.export) == ExportRecord(4, moving_average=True)
    loras = [load_file(paths.export / "pytorch_lora_weights.safetensors") for paths in (best, newest)]
    assert any(not np.array_equal(loras[0][key], loras[1][key]) for key in loras[0])
    assert "policy version 2 " in (best.export / "README.md").read_text()
    assert finished_version(settings) == 4
    assert finished_version(replace(settings, export=replace(settings.export, merged=True))) is None


def test_an_export_outlives_its_checkpoint(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}", "export.version=7"])
    (run_paths(settings).exports / "7").mkdir(parents=True)
    (run_paths(settings).exports / "7-merged").mkdir()
    assert provide_export(settings).export == tmp_path / "policy" / "exports" / "7"
    with pytest.raises(UserError, match=r"export\.version=best: no version that exists was evaluated.*one of 7$"):
        choose_version(chosen(settings, "best"))


def test_a_run_without_versions_is_named(tmp_path: Path) -> None:
    for version in ("newest", "best", 3):
        with pytest.raises(UserError, match=r"no complete checkpoint at .*: run `spatialt2i policy train` first"):
            choose_version(chosen(load("scenes", [f"run_dir={tmp_path}"]), version))


@pytest.mark.parametrize("version", ["0", "-1", "1.5", "latest", "", "Best", "²"])
def test_other_words_are_no_version(version: str) -> None:
    with pytest.raises(SettingsError, match=r"export\.version must be newest, best or the number of a policy version"):
        load("scenes", [f"export.version={version}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["export.version=60"], "export.version must be newest or best while a policy is trained, got 60"),
        (["export.version=best", "policy.evaluation.every=0"], "export.version=best needs evaluations during training"),
        (["export.version=best", "policy.evaluation.prompts=0"], "export.version=best needs evaluations"),
    ],
)
def test_what_a_training_run_cannot_export_is_refused_before_it_starts(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_export_after_training(load("scenes", overrides))


@pytest.mark.parametrize("by", ["reward", "relations", "fully_correct", "sharpness", "diversity"])
def test_versions_are_compared_by_what_somebody_measures(by: str) -> None:
    assert load("scenes", [f"policy.evaluation.best_by={by}"]).policy.evaluation.best_by == by


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("flux_dev", ["policy.evaluation.best_by=relations"], "best_by=relations needs the exact checker"),
        ("flux_dev", ["policy.evaluation.best_by=fully_correct"], "best_by=fully_correct needs the exact checker"),
        ("scenes", ["policy.evaluation.best_by=sharpnes"], r"did you mean sharpness\?.*rewards\.sharpnes\.weight=0"),
        ("scenes", ["policy.evaluation.best_by="], r"measured by nobody: use one of .*, fully_correct$"),
        ("scenes", ["policy.evaluation.best_by=sharpness", "policy.evaluation.every=0"], "needs evaluations during"),
        ("scenes", ["policy.evaluation.best_by=spatialscore"], "measured by nobody: use one of reward, edge_density"),
        (
            "scenes",
            ["policy.evaluation.best_by=diversity", "policy.evaluation.diversity_prompts=0"],
            "best_by=diversity needs second images",
        ),
    ],
)
def test_a_measure_that_nobody_takes_cannot_choose_the_best_version(
    preset: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load(preset, overrides)
