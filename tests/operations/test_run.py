"""The whole pipeline: complete steps are skipped, interrupted ones continue, settings invalidate what they decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.files import write_file
from conf import Settings, load
from pipelines.benchmark.judging import JudgeResult
from pipelines.benchmark.work import Work
from pipelines.common.paths import RunPaths, run_paths
from pipelines.operations.run import complete_record, run_pipeline
from pipelines.operations.stages import BENCHMARK_STEP, STEPS, PipelineStep, StepResult, steps_of
from pipelines.preferences.dataset.schema import SCHEMA
from tests.support.pair_sources import PENDING

NAMES = [step.name for step in STEPS]


def step(name: str) -> PipelineStep:
    return STEPS[NAMES.index(name)]


def test_the_steps_are_the_stages_in_order() -> None:
    assert NAMES == ["preferences", "reward", "accuracy", "sanity_checks", "policy", "evaluation"]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("preferences.pairs=50", {"preferences"}),
        ("preferences.test_fraction=0.2", {"preferences"}),
        ("reward.lr=1e-4", {"reward"}),
        ("spatialscore.lora_rank=8", {"reward"}),
        ("policy.minutes=1", {"policy"}),
        ("policy.optimizer.lr=1e-4", {"policy"}),
        ("policy.sampling.noise_level=0.5", {"preferences", "policy"}),  # the policy's sampler makes part of the pairs
        ("evaluation.seed=3", {"evaluation"}),
        ("preferences.generator_actors=1", set()),
        ("writer.model=other", set()),  # the scenes grammar writes the prompts
        ("reward.checkpoint_every=10", set()),
        ("reward.micro_batch_size=4", set()),
        ("policy.rollout.max_actors=3", set()),
        ("serving.max_replicas=4", set()),
    ],
)
def test_a_setting_invalidates_the_steps_that_it_decides(override: str, changed: set[str], tmp_path: Path) -> None:
    before, after = (load("scenes", [f"run_dir={tmp_path}", *more]) for more in ([], [override]))
    assert {each.name for each in STEPS if each.digest(before) != each.digest(after)} == changed


@pytest.mark.parametrize(
    "override",
    [
        "writer.model=other",
        "perturber.model=other",
        "seedream.size=512x512",
        "qwen_image.denoise_steps=4",
        "hunyuan_image.guidance=1",
    ],
)
def test_another_writer_perturber_or_generator_invalidates_the_pairs(override: str) -> None:
    pairs = step("preferences")
    assert pairs.digest(load("flux_dev", [override])) != pairs.digest(load("flux_dev"))
    assert pairs.digest(load("flux_dev", ["writer.concurrency=2"])) == pairs.digest(load("flux_dev"))


def test_new_input_files_invalidate_the_steps_that_read_them(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}"])
    before = {each.name: each.digest(settings) for each in STEPS}
    model = run_paths(settings).reward_model
    model.mkdir(parents=True)
    (model / "head.safetensors").write_bytes(b"other weights")
    step("reward").record_path(settings).write_text("{}")  # records are not inputs
    after = {each.name: each.digest(settings) for each in STEPS}
    changed = {name for name in NAMES if before[name] != after[name]}
    assert changed == {"accuracy", "sanity_checks", "policy", "evaluation"}
    (model / "README.md").write_text("accuracy")  # as the step that measures the accuracy does
    (model / "calibration.json").write_text("{}")
    assert {each.name: each.digest(settings) for each in STEPS} == after


def test_a_run_ends_after_stage_1_if_pairs_wait_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pa.Table.from_pylist([{"split": "train", "review": PENDING}] * 3, schema=SCHEMA)
    started: list[str] = []

    def build(settings: Settings) -> str:
        run_paths(settings).preferences.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, run_paths(settings).preferences / "train-00000.parquet")
        return "3 pairs"

    def train(settings: Settings) -> str:
        started.append("reward")
        return ""

    steps = [replace(step("preferences"), run=build), replace(step("reward"), run=train)]
    run_pipeline(load("scenes", [f"run_dir={tmp_path}"]), steps)
    said = capsys.readouterr().out
    assert not started and "3 pairs wait for people, so this run ends here, with exit code 0" in said
    assert f"spatialt2i preferences publish run_dir={tmp_path}" in said
    assert f"reward.pairs={tmp_path}/published/1.0.0" in said
    run_pipeline(load("scenes", [f"run_dir={tmp_path}", "reward.unreviewed=true"]), steps)
    assert started == ["reward"]


def test_the_benchmarks_are_the_last_step_if_a_setting_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, with_benchmarks = (load("scenes", [f"run_dir={tmp_path}", f"benchmark.in_run={on}"]) for on in (False, True))
    assert [each.name for each in steps_of(plain)] == NAMES
    assert [each.name for each in steps_of(with_benchmarks)] == [*NAMES, "benchmark"]
    result = JudgeResult(8, {}, "")

    def run_all(settings: Settings, work: Sequence[Work]) -> tuple[JudgeResult, str]:
        write_file(str(run_paths(settings).benchmark_report), b"<p>report</p>")
        return result, f"{len(work)} benchmarks"

    monkeypatch.setattr("pipelines.benchmark.commands.run_all", run_all)
    result = JudgeResult(8, {"call failed": 1}, "no answer")
    with pytest.raises(SystemExit, match="did not answer all calls"):
        run_pipeline(with_benchmarks, [BENCHMARK_STEP])
    result = JudgeResult(8, {}, "")
    run_pipeline(with_benchmarks, [BENCHMARK_STEP])
    run_pipeline(with_benchmarks, [BENCHMARK_STEP])
    said = capsys.readouterr().out
    assert said.count("5 benchmarks") == 2 and said.count("skipped: complete for these settings") == 1
    for override in ("benchmark.seed=3", "unigenbench_judge.model=other", "spatialgeneval_judge.shuffle=false"):
        other = load("scenes", [f"run_dir={tmp_path}", "benchmark.in_run=true", override])
        assert complete_record(BENCHMARK_STEP, other) is None, override
    moved = load("scenes", [f"run_dir={tmp_path}", "benchmark.in_run=true", "unigenbench_judge.retries=1"])
    assert complete_record(BENCHMARK_STEP, moved)


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
    assert "20 pairs" in first and "starting the workers" in first and "skipped" not in first
    assert "20 pairs" in second and "starting the workers" not in second and "skipped: complete" in second
    folder = run_paths(settings).preferences
    for path in folder.glob("*.parquet"):
        path.unlink()
    STEPS[0].record_path(settings).unlink()
    run_pipeline(settings, STEPS[:1])
    assert list(folder.glob("*.parquet"))


def fake_step(name: str, run: Callable[[Settings], str | StepResult]) -> PipelineStep:
    """A step whose output is the folder `name` of the run, and which depends on the policy's seed."""

    def output(paths: RunPaths) -> Path:
        return paths.root / name

    return PipelineStep(name, name, output, run, lambda settings: {"seed": settings.policy.seed})


def test_an_interrupted_pipeline_continues_at_the_interrupted_step(tmp_path: Path) -> None:
    """The second of three steps is interrupted. Started again, the pipeline runs only it and the third step."""
    settings, calls, interrupts = load("scenes", [f"run_dir={tmp_path}"]), list[str](), [KeyboardInterrupt()]

    def make(name: str) -> PipelineStep:
        def run(settings: Settings) -> str:
            calls.append(name)
            if name == "policy" and interrupts:
                raise interrupts.pop()
            (tmp_path / name).mkdir(exist_ok=True)
            return name

        return fake_step(name, run)

    steps = [make(name) for name in ("reward", "policy", "evaluation")]
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(settings, steps)
    run_pipeline(settings, steps)
    assert calls == ["reward", "policy", "policy", "evaluation"]
    assert all(complete_record(each, settings) for each in steps)
    other = replace(settings, policy=replace(settings.policy, seed=1))
    assert not any(complete_record(each, other) for each in steps)
    (tmp_path / "evaluation").rename(tmp_path / "lost")
    assert complete_record(steps[2], settings) is None


def test_a_run_with_a_failed_baseline_goes_on_and_asks_again_at_the_next_call(tmp_path: Path) -> None:
    settings, calls, missing = load("scenes", [f"run_dir={tmp_path}"]), list[str](), ["GPT-5 failed"]

    def measure(settings: Settings) -> StepResult:
        calls.append("accuracy")
        (tmp_path / "accuracy").mkdir(exist_ok=True)
        return StepResult("a table", missing.pop() if missing else "")

    def train(settings: Settings) -> str:
        calls.append("policy")
        (tmp_path / "policy").mkdir(exist_ok=True)
        return ""

    steps = [fake_step("accuracy", measure), fake_step("policy", train)]
    with pytest.raises(SystemExit, match="GPT-5 failed"):
        run_pipeline(settings, steps)
    run_pipeline(settings, steps)
    run_pipeline(settings, steps)
    assert calls == ["accuracy", "policy", "accuracy"]
