"""A baseline that fails costs its own row of the table, and nothing of SpatialScore's evaluation and checks."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from actors.services.budget import BudgetReached
from actors.types import Scores
from conf import Settings, UserError, load
from pipelines.common.paths import run_paths
from pipelines.operations.stages import STEPS, StepResult
from pipelines.reward import commands, evaluate
from pipelines.reward.baselines.failure import FailedBaseline, failed_baseline, traceback_of
from pipelines.reward.data import read_pairs
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.held_out_scores import HeldOutScores, score_each
from pipelines.reward.locations import HELD_OUT, pair_source
from pipelines.reward.predictions import KeyedPredictions, PairKey, PairPredictions
from pipelines.reward.report import table
from pipelines.reward.train import RewardResult
from tests.support.scene_pairs import write_scene_pairs


class PrefersBright:
    def score(self, images: list[np.ndarray], prompts: list[str]) -> Scores:
        return Scores(np.array([image.mean() for image in images], np.float32), np.ones(len(images), np.float32))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A run with 4 held-out pairs whose baselines GPT-5 and CLIP fail before any Ray actor starts; PickScore works."""
    settings = load("scenes", [f"run_dir={tmp_path}", "baselines.names=[GPT-5,CLIP,PickScore]"])
    write_scene_pairs(run_paths(settings).preferences, 20)
    pairs = read_pairs(pair_source(settings), HELD_OUT).pairs
    keys = tuple(PairKey(0, pair.pair_id) for pair in pairs)
    scores = HeldOutScores(keys, score_each(cast(evaluate.SpatialScorer, PrefersBright()), pairs), "")

    def predict(name: str, settings: Settings, log: object) -> KeyedPredictions:
        written = json.loads(run_paths(settings).reward_evaluation.read_text())
        assert [model["name"] for model in written["models"]] == ["SpatialScore"], "before the baselines"
        if name == "GPT-5":
            raise BudgetReached("budget.calls=5 is reached: raise it")
        if name == "CLIP":
            raise RuntimeError("no wheel for this\nplatform")
        return KeyedPredictions(keys, PairPredictions(np.ones(len(keys), np.float32), np.zeros(len(keys), bool)))

    monkeypatch.setattr(evaluate, "predict_by_baseline", predict)
    monkeypatch.setattr(evaluate, "score_held_out", lambda settings: scores)
    monkeypatch.setattr(evaluate, "measure_hard_negatives", lambda settings: {})
    return settings


FAILED = (
    FailedBaseline("GPT-5", "budget.calls=5 is reached: raise it"),
    FailedBaseline("CLIP", "RuntimeError: no wheel for this platform"),
)


def test_a_failed_baseline_is_named_and_the_others_are_measured(settings: Settings) -> None:
    lines: list[str] = []
    evaluation = evaluate_reward(settings, lines.append)
    assert [model.name for model in evaluation.models] == ["SpatialScore", "PickScore"]
    assert evaluation.failed == FAILED
    page = run_paths(settings).reward_report.read_text()
    for each in FAILED:
        said = f"{each.name} failed and is not in the table: {each.reason}"
        assert said in table(evaluation) and said in page and any(said in line for line in lines)
    logged = "\n".join(lines)
    assert "in predict" in logged and logged.count("Traceback") == 1, "of the error that nobody can read otherwise"
    saved = json.loads(run_paths(settings).reward_evaluation.read_text())
    assert [each["name"] for each in saved["failed"]] == ["GPT-5", "CLIP"] and len(saved["models"]) == 2


def test_the_reason_is_that_of_the_actor() -> None:
    error = RayTaskError("judge", "Traceback of the actor", UserError("set the key")).as_instanceof_cause()
    assert failed_baseline("GPT-5", error) == FailedBaseline("GPT-5", "set the key")
    assert not traceback_of(error)
    other = RayTaskError("judge", "Traceback of the actor", KeyError("text")).as_instanceof_cause()
    assert failed_baseline("GPT-5", other).reason == "KeyError: 'text'"
    assert "RayTaskError(KeyError)" in traceback_of(other)


def test_a_run_goes_on_and_its_step_is_not_complete(settings: Settings) -> None:
    done = next(step for step in STEPS if step.name == "accuracy").run(settings)
    assert isinstance(done, StepResult) and "SpatialScore - PickScore" in done.summary
    assert "GPT-5 (budget.calls=5 is reached: raise it); CLIP (RuntimeError" in done.missing


def test_reward_train_and_evaluate_end_with_the_reason_after_the_sanity_checks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(commands, "served_model", lambda settings: "")
    monkeypatch.setattr(commands, "ray_session", lambda settings: nullcontext())
    monkeypatch.setattr(commands, "train_reward", lambda settings: RewardResult(Path("m"), 16, 1, 0.5, 0.9, 0, 1.0))
    monkeypatch.setattr(commands, "check", lambda settings: steps.append("checked"))
    with pytest.raises(SystemExit, match=r"^reward train  these baselines failed: GPT-5 \(budget\.calls=5"):
        commands.train(settings)
    assert steps == ["checked"] and "SpatialScore - PickScore" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"^reward evaluate  these baselines failed: .*CLIP \(RuntimeError"):
        commands.evaluate(settings)
