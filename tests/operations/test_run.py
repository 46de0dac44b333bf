"""The whole pipeline: complete work is skipped, interrupted work goes on, and settings that matter are told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conf import Settings, load
from pipelines.operations.run import complete, run_pipeline
from pipelines.operations.stages import STEPS, Step

NAMES = [step.name for step in STEPS]


def step(name: str) -> Step:
    return STEPS[NAMES.index(name)]


def test_the_steps_are_the_stages_in_order() -> None:
    assert NAMES == ["preferences", "fit", "accuracy", "doctor", "policy", "evaluation"]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("preferences.pairs=50", {"preferences"}),
        ("reward.lr=1e-4", {"fit"}),
        ("spatialscore.lora_rank=8", {"fit"}),
        ("policy.minutes=1", {"policy"}),
        ("policy.optimizer.lr=1e-4", {"policy"}),
        (
            "policy.sampling.noise_level=0.5",
            {"preferences", "policy"},
        ),  # a part of the pairs is drawn as the policy draws
        ("evaluation.seed=3", {"evaluation"}),
        ("preferences.generator_actors=1", set()),
        ("writer.model=other", set()),  # nobody asks it
        ("reward.checkpoint_every=10", set()),
        ("policy.rollout.max_actors=3", set()),
        ("serving.max_replicas=4", set()),
    ],
)
def test_a_setting_asks_again_for_the_steps_that_it_decides(override: str, changed: set[str], tmp_path: Path) -> None:
    before, after = (load("scenes", [f"run_dir={tmp_path}", *more]) for more in ([], [override]))
    assert {each.name for each in STEPS if each.digest(before) != each.digest(after)} == changed


@pytest.mark.parametrize("override", ["writer.model=other", "perturber.model=other", "seedream.size=512x512",
                                      "qwen_image.denoise_steps=4", "hunyuan_image.guidance=1"])  # fmt: skip
def test_another_writer_perturber_or_painter_asks_for_other_pairs(override: str) -> None:
    pairs = step("preferences")
    assert pairs.digest(load("flux_dev", [override])) != pairs.digest(load("flux_dev"))
    assert pairs.digest(load("flux_dev", ["writer.concurrency=2"])) == pairs.digest(load("flux_dev"))


def test_new_input_files_ask_again_for_what_was_made_from_them(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}"])
    before = {each.name: each.digest(settings) for each in STEPS}
    (tmp_path / "reward" / "model").mkdir(parents=True)
    (tmp_path / "reward" / "model" / "head.safetensors").write_bytes(b"other weights")
    (tmp_path / "reward" / "_fit.receipt.json").write_text("{}")  # receipts are no input
    after = {each.name: each.digest(settings) for each in STEPS}
    assert {name for name in NAMES if before[name] != after[name]} == {"accuracy", "doctor", "policy", "evaluation"}


@pytest.mark.ray
def test_complete_pairs_are_not_built_again(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["preferences.pairs=20", "preferences.generated_fraction=0", "preferences.corrupted_fraction=0"]
    settings = load("scenes", [f"run_dir={tmp_path}", *small])
    run_pipeline(settings, STEPS[:1])
    first = capsys.readouterr().out
    run_pipeline(settings, STEPS[:1])
    second = capsys.readouterr().out
    assert "20 pairs" in first and "pairs/s" in first and "not done again" not in first
    assert "20 pairs" in second and "pairs/s" not in second and "not done again" in second
    for path in (tmp_path / "preferences").glob("*.parquet"):
        path.unlink()
    (tmp_path / "preferences" / "_preferences.receipt.json").unlink()
    run_pipeline(settings, STEPS[:1])
    assert list((tmp_path / "preferences").glob("*.parquet"))


def test_an_interrupted_pipeline_goes_on_where_it_was(tmp_path: Path) -> None:
    """The second of three steps is interrupted; called again, it alone and the third are done."""
    settings, calls, trouble = load("scenes", [f"run_dir={tmp_path}"]), [], [KeyboardInterrupt()]

    def make(name: str) -> Step:
        def work(settings: Settings) -> str:
            calls.append(name)
            if name == "two" and trouble:
                raise trouble.pop()
            Path(settings.run_dir, name).mkdir(exist_ok=True)
            return name

        return Step(name, name, name, work, lambda settings: {"seed": settings.policy.seed})

    steps = [make(name) for name in ("one", "two", "three")]
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(settings, steps)
    run_pipeline(settings, steps)
    assert calls == ["one", "two", "two", "three"]
    assert all(complete(each, settings) for each in steps)
    other = replace(settings, policy=replace(settings.policy, seed=1))
    assert not any(complete(each, other) for each in steps)
    (tmp_path / "three").rename(tmp_path / "lost")
    assert complete(steps[2], settings) is None
