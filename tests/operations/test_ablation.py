"""The comparisons of an ablation, computed by hand; and a finished run is never trained again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from actors.files import write_file
from conf import Settings, SettingsError, load
from conf.ablation import BASE, QUESTIONS, VARIANTS
from pipelines.common.paths import RunPaths, run_paths
from pipelines.operations.ablation.report import compare, seconds_to, write_report
from pipelines.operations.ablation.run import AblationRun, Log, plan_runs, run_ablation
from pipelines.policy.metrics import EvaluationRow
from pipelines.policy.resume import training_settings
from pipelines.policy.train import PolicyResult


def curve(*points: tuple[float, float]) -> tuple[EvaluationRow, ...]:
    """(training seconds, fraction of relations right); long prompts are 0.2 below short ones."""
    return tuple(
        EvaluationRow(i, seconds, 0.0, 8, right, right - 0.2, 0.9, 0.7, 0.0, 0.0, 1.0, 1.0, 1.0)
        for i, (seconds, right) in enumerate(points)
    )


def test_equal_iterations_equal_time_and_same_accuracy_by_hand() -> None:
    """The base takes 20 s and top-4 takes 10 s, so at equal time the base is half way. Both reach 0.6 - 0.1."""
    curves = {BASE: [curve((0, 0.4), (20, 0.8))], "top-4": [curve((0, 0.4), (10, 0.5)), curve((0, 0.4), (10, 0.7))]}
    base, top4 = compare(QUESTIONS["Top-k filter"], curves)
    assert (base.short.tolist(), top4.short.tolist()) == ([0.8], [0.5, 0.7])
    assert base.short_at_equal_time.tolist() == pytest.approx(
        [0.6]
    ) and base.long_at_equal_time.tolist() == pytest.approx([0.4])
    assert top4.short_at_equal_time.tolist() == pytest.approx([0.5, 0.7])
    assert base.objects.tolist() == pytest.approx([0.8])
    assert (base.seconds_to_target, top4.seconds_to_target) == pytest.approx((10.0, 10.0))
    assert math.isnan(seconds_to([(0, 0.1), (5, 0.2)], 0.3)) and seconds_to([(0, 0.4), (5, 0.5)], 0.3) == 0.0


def test_the_report_has_tables_of_the_questions_with_finished_runs(tmp_path: Path) -> None:
    curves = {BASE: [curve((0, 0.4), (20, 0.8))], "cps": [curve((0, 0.4), (22, 0.7))]}
    paths = RunPaths(tmp_path)
    page = write_report(curves, load(), paths).read_text()
    text = paths.ablation_table.read_text()
    assert "## SDE against CPS" in text and "Top-k" not in text
    assert "| cps | 1 | 22 | 70.0% ± 0.0% | 50.0% ± 0.0% |" in text
    assert page.count("<svg") == 1
    assert "constant after a warm-up of 8 iterations, so" in text and "after a warm-up of 8 iterations" in page
    write_report(curves, load("scenes", ["policy.optimizer.warmup_iterations=1"]), paths)
    assert "The learning rate is constant, so" in paths.ablation_table.read_text()


@pytest.mark.parametrize("finished", [0, 1])
def test_a_report_without_a_comparison_says_so(finished: int, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    page = write_report({BASE: [curve((0, 0.4), (20, 0.8))]} if finished else {}, load(), paths).read_text()
    assert "Nothing can be compared yet" in page and "Nothing can be compared yet" in paths.ablation_table.read_text()
    assert "<ul></ul>" not in page and (f"<b>{BASE}</b>, 1 seeds" in page) == bool(finished)


def test_every_variant_loads_differs_from_the_others_and_answers_a_question(tmp_path: Path) -> None:
    runs = list(plan_runs(load("scenes", [f"run_dir={tmp_path}", "ablation.seeds=1"])))
    assert [run.variant for run in runs] == list(VARIANTS)
    assert len({json.dumps(training_settings(run.settings), sort_keys=True) for run in runs}) == len(VARIANTS)
    assert {variant for question in QUESTIONS.values() for variant in question} == set(VARIANTS)
    with pytest.raises(SettingsError, match="did you mean top-4"):
        load("scenes", ["ablation.variants=[top4]"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}", "ablation.variants=[base,cps]", "ablation.seeds=2"])
    for run in list(plan_runs(settings))[:3]:
        run.write(curve((0, 0.4), (20, 0.8)))
    trained: list[Path] = []

    def train(settings: Settings, log: Log) -> PolicyResult:
        trained.append(run_paths(settings).root)
        return PolicyResult(24, 20.0, tmp_path, "", tmp_path, curve((0, 0.4), (20, 0.9)))

    run_ablation(settings, lambda line: None, train)
    assert trained == [run_paths(settings).ablation_run("cps", 1).root]
    run_ablation(settings, lambda line: None, train)
    assert len(trained) == 1 and "| cps | 2 |" in run_paths(settings).ablation_table.read_text()
    shorter = load("scenes", [f"run_dir={tmp_path}", "ablation.variants=[base,cps]", "ablation.iterations=3"])
    with pytest.raises(
        SettingsError, match=r"made with other settings .*iterations was 24 and is 3\. Remove .*base/seed-0"
    ):
        run_ablation(shorter, lambda line: None, train)
    assert len(trained) == 1
    outcome = run_paths(settings).ablation_run("cps", 1).outcome
    for number, damaged in enumerate([outcome.read_bytes()[:-9], b"[]", b'{"settings": {}, "evaluations": [1]}'], 2):
        outcome.write_bytes(damaged)
        run_ablation(settings, lambda line: None, train)
        assert len(trained) == number


def test_a_large_model_is_refused_because_no_checker_judges_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"needs flux\.model=embedded, got mine/model"):
        run_ablation(load("scenes", [f"run_dir={tmp_path}", "flux.model=mine/model"]))


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., list[AblationRun]]:
    """Plans the runs of one variant and seed against a SpatialScore of a few bytes, with overrides on top."""
    score = run_paths(load("scenes", [f"run_dir={tmp_path}"])).reward_model
    score.mkdir(parents=True)
    (score / "head.safetensors").write_bytes(b"one")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"text": "a cat"}')

    def plan(*overrides: str) -> list[AblationRun]:
        words = [f"run_dir={tmp_path}", f"policy.held_out_prompts={held_out}", "ablation.variants=[base]"]
        return list(plan_runs(load("scenes", [*words, "ablation.seeds=1", *overrides])))

    return plan


def test_settings_that_change_nothing_keep_a_finished_run(planned: Callable[..., list[AblationRun]]) -> None:
    planned()[0].write(curve((0, 0.4), (20, 0.8)))
    (run,) = planned("evaluation.batch_prompts=3", "evaluation.use_ema=false")  # used by stage 4 and the export
    assert [row.iteration for row in run.curve()] == [0, 1]


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("evaluation.denoise_steps=6", "evaluation.denoise_steps was 28 and is 6"),
        ("evaluation.seed=7", "evaluation.seed was 1000 and is 7"),
        ("ablation.evaluate_every=8", "ablation.evaluate_every was 4 and is 8"),
        ("ablation.evaluate_prompts=96", "ablation.evaluate_prompts was 192 and is 96"),
        ("policy.rollout.max_actors=1", "policy.rollout.max_actors was 2 and is 1"),
        ("policy.learner.replay_batch=24", "policy.learner.replay_batch was 36 and is 24"),
        ("policy.optimizer.lr=0.1", "policy.optimizer.lr was 0.003 and is 0.1"),
    ],
)
def test_a_finished_run_with_other_settings_is_refused(
    planned: Callable[..., list[AblationRun]], override: str, difference: str
) -> None:
    planned()[0].write(curve((0, 0.4), (20, 0.8)))
    (run,) = planned(override)
    with pytest.raises(SettingsError, match=f"than this ablation's: {difference}. Remove .*base/seed-0, or choose"):
        run.curve()


def test_a_finished_run_with_another_spatialscore_or_other_prompts_or_base_is_refused(
    planned: Callable[..., list[AblationRun]], tmp_path: Path
) -> None:
    both = "ablation.variants=[base,short-rules]"
    base, rules = planned(both)
    for run in (base, rules):
        run.write(curve((0, 0.4), (20, 0.8)))
    (run_paths(load("scenes", [f"run_dir={tmp_path}"])).reward_model / "head.safetensors").write_bytes(b"two")
    base, rules = planned(both)
    with pytest.raises(SettingsError, match=r"ablation's: SpatialScore was '[0-9a-f]{12}' and is '[0-9a-f]{12}'\."):
        base.curve()
    assert len(rules.curve()) == 2  # SpatialScore has no weight in it
    (tmp_path / "held_out.jsonl").write_text('{"text": "a dog"}')
    with pytest.raises(SettingsError, match=r"ablation's: the file policy.held_out_prompts was '[0-9a-f]{12}' and is"):
        planned("ablation.variants=[short-rules]")[0].curve()
    (tmp_path / "held_out.jsonl").write_text('{"text": "a cat"}')
    with pytest.raises(SettingsError, match=r"ablation's: the base was"):
        planned("ablation.variants=[short-rules]", f"flux.model={tmp_path}")[0].curve()


def test_an_outcome_without_a_setting_counts_as_made_with_another(
    planned: Callable[..., list[AblationRun]],
) -> None:
    run = planned()[0]
    rows = [asdict(row) for row in curve((0, 0.4), (20, 0.8))]
    content = {"settings": training_settings(run.settings), "evaluations": rows}
    write_file(str(run.outcome), json.dumps(content).encode())
    with pytest.raises(
        SettingsError, match=r"evaluation.denoise_steps was not recorded and is 28.* Remove .*, or choose another"
    ):
        run.curve()
