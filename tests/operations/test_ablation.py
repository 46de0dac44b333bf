"""What an ablation reads off its curves, by hand; and that a finished run is never made again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from actors.files import write_file
from conf import SettingsError, load
from conf.ablation import BASE, QUESTIONS, VARIANTS
from pipelines.operations.ablation import run as run_module
from pipelines.operations.ablation.report import compare, seconds_to, write_report
from pipelines.operations.ablation.run import Run, planned, run_ablation
from pipelines.policy import fingerprint as sources
from pipelines.policy.checkpoint import training_settings
from pipelines.policy.metrics import EvaluationRow
from pipelines.policy.train import PolicyResult


def curve(*points: tuple[float, float]) -> tuple[EvaluationRow, ...]:
    """(training seconds, share of relations right); long prompts lie 0.2 below short ones."""
    return tuple(
        EvaluationRow(i, seconds, 0.0, 8, right, right - 0.2, 0.9, 0.7, 0.0, 0.0, 1.0, 1.0, 1.0)
        for i, (seconds, right) in enumerate(points)
    )


def test_equal_updates_equal_time_and_the_same_accuracy_by_hand() -> None:
    """The base takes 20 s, top-4 10 s: equal time is 10 s, where the base stands half way. Both reach 0.6 - 0.1."""
    curves = {BASE: [curve((0, 0.4), (20, 0.8))], "top-4": [curve((0, 0.4), (10, 0.5)), curve((0, 0.4), (10, 0.7))]}
    base, top4 = compare(QUESTIONS["Top-k filter"], curves)
    assert (base.short.tolist(), top4.short.tolist()) == ([0.8], [0.5, 0.7])
    assert base.short_then.tolist() == pytest.approx([0.6]) and base.long_then.tolist() == pytest.approx([0.4])
    assert top4.short_then.tolist() == pytest.approx([0.5, 0.7])
    assert base.objects.tolist() == pytest.approx([0.8])
    assert (base.seconds_to_target, top4.seconds_to_target) == pytest.approx((10.0, 10.0))
    assert math.isnan(seconds_to([(0, 0.1), (5, 0.2)], 0.3)) and seconds_to([(0, 0.4), (5, 0.5)], 0.3) == 0.0


def test_the_report_tables_what_is_there(tmp_path: Path) -> None:
    curves = {BASE: [curve((0, 0.4), (20, 0.8))], "cps": [curve((0, 0.4), (22, 0.7))]}
    page = write_report(curves, load(), tmp_path)
    text = page.with_suffix(".md").read_text()
    assert "## SDE against CPS" in text and "Top-k" not in text
    assert "| cps | 1 | 22 | 70.0% ± 0.0% | 50.0% ± 0.0% |" in text
    assert page.read_text().count("<svg") == 1
    assert "constant after a warm-up of 8 versions, so" in text and "after a warm-up of 8 versions" in page.read_text()
    page = write_report(curves, load("scenes", ["policy.optimizer.warmup_iterations=1"]), tmp_path)
    assert "The learning rate is constant, so" in page.with_suffix(".md").read_text()


def test_every_variant_is_one_that_settings_allow_and_that_is_asked_for(tmp_path: Path) -> None:
    runs = list(planned(load("scenes", [f"run_dir={tmp_path}", "ablation.seeds=1"])))
    assert [run.variant for run in runs] == list(VARIANTS)
    assert len({json.dumps(training_settings(run.settings), sort_keys=True) for run in runs}) == len(VARIANTS)
    assert {variant for question in QUESTIONS.values() for variant in question} == set(VARIANTS)
    with pytest.raises(SettingsError, match="did you mean top-4"):
        load("scenes", ["ablation.variants=[top4]"])


def test_a_finished_run_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}", "ablation.variants=[base,cps]", "ablation.seeds=2"])
    runs = list(planned(settings))
    for run in runs[:3]:
        run.write(curve((0, 0.4), (20, 0.8)))
    made = []

    def train(wanted, log):  # type: ignore[no-untyped-def]
        made.append(Path(wanted.run_dir))
        return PolicyResult(24, 20.0, tmp_path, "", tmp_path, curve((0, 0.4), (20, 0.9)))

    monkeypatch.setattr(run_module, "run_policy", train)
    report = run_ablation(settings, lambda line: None)
    assert made == [tmp_path / "ablation" / "cps" / "seed-1"]
    run_ablation(settings, lambda line: None)
    assert len(made) == 1 and "| cps | 2 |" in report.with_suffix(".md").read_text()
    with pytest.raises(
        ValueError, match=r"made with other settings .* iterations was 24 and is 3\. Remove .*base/seed-0"
    ):
        run_ablation(load("scenes", [f"run_dir={tmp_path}", "ablation.variants=[base,cps]", "ablation.iterations=3"]))


@pytest.fixture
def planned_with(tmp_path: Path) -> Callable[..., list[Run]]:
    """The runs of an ablation of one variant and seed against a SpatialScore of a few bytes, with overrides on top."""
    score = tmp_path / "reward" / "model"
    score.mkdir(parents=True)
    (score / "head.safetensors").write_bytes(b"one")
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"text": "a cat"}')

    def plan(*overrides: str) -> list[Run]:
        own = [f"run_dir={tmp_path}", f"policy.held_out_prompts={held_out}", "ablation.variants=[base]"]
        return list(planned(load("scenes", [*own, "ablation.seeds=1", *overrides])))

    return plan


def test_a_run_judged_otherwise_is_not_mixed_in(planned_with: Callable[..., list[Run]]) -> None:
    planned_with()[0].write(curve((0, 0.4), (20, 0.8)))
    (run,) = planned_with("evaluation.batch_prompts=3", "evaluation.use_ema=false")  # of stage 4 and of the export
    assert [row.iteration for row in run.curve()] == [0, 1]
    for override, difference in (
        ("evaluation.denoise_steps=6", "evaluation.denoise_steps was 28 and is 6"),
        ("evaluation.seed=7", "evaluation.seed was 1000 and is 7"),
        ("ablation.evaluate_every=8", "ablation.evaluate_every was 4 and is 8"),
        ("ablation.evaluate_prompts=96", "ablation.evaluate_prompts was 192 and is 96"),
    ):
        (run,) = planned_with(override)
        with pytest.raises(ValueError, match=f"than this ablation's: {difference}. Remove .*base/seed-0, or choose"):
            run.curve()


def test_a_run_of_another_spatialscore_other_prompts_or_another_base_is_not_mixed_in(
    planned_with: Callable[..., list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = "ablation.variants=[base,short-rules]"
    for run in planned_with(both):
        run.write(curve((0, 0.4), (20, 0.8)))
    (tmp_path / "reward" / "model" / "head.safetensors").write_bytes(b"two")
    base, rules = planned_with(both)
    with pytest.raises(ValueError, match=r"ablation's: SpatialScore was '[0-9a-f]{12}' and is '[0-9a-f]{12}'\."):
        base.curve()
    assert len(rules.curve()) == 2  # SpatialScore has no weight in it
    (tmp_path / "held_out.jsonl").write_text('{"text": "a dog"}')
    with pytest.raises(ValueError, match=r"ablation's: the file policy.held_out_prompts was '[0-9a-f]{12}' and is"):
        planned_with("ablation.variants=[short-rules]")[0].curve()
    (tmp_path / "held_out.jsonl").write_text('{"text": "a cat"}')
    monkeypatch.setattr(sources, "flux_location", lambda settings: str(tmp_path / "reward"))
    with pytest.raises(ValueError, match=r"ablation's: the base was"):
        planned_with("ablation.variants=[short-rules]")[0].curve()


def test_an_outcome_that_does_not_tell_how_it_was_judged_counts_as_judged_otherwise(
    planned_with: Callable[..., list[Run]],
) -> None:
    run = planned_with()[0]
    rows = [asdict(row) for row in curve((0, 0.4), (20, 0.8))]
    stored = {"settings": training_settings(run.settings), "evaluations": rows}
    write_file(str(run.outcome), json.dumps(stored).encode())
    with pytest.raises(
        ValueError, match=r"evaluation.denoise_steps was not noted and is 28.* Remove .*, or choose another"
    ):
        run.curve()
