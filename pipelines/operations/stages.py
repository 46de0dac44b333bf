"""The steps of the whole pipeline: what each runs, and what its output depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from actors.spatialscore.calibration import CALIBRATION_FILE
from actors.spatialscore.card import CARD_FILE
from conf import Settings
from conf.flux import EMBEDDED
from pipelines.common.fingerprints import digest_of, digest_of_files, digest_of_names
from pipelines.common.paths import RunPaths, pairs_locations, run_paths, spatialscore_folder
from pipelines.common.terminal import coloured
from pipelines.evaluation.run import evaluate
from pipelines.operations.stage_cache import BENCHMARK, step_record
from pipelines.policy.resume import training_settings
from pipelines.policy.train import run_policy
from pipelines.preferences.build import build_preferences, fingerprint
from pipelines.preferences.finalize import final_settings
from pipelines.reward.baselines.failure import ask_again
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.report import table as accuracy_table
from pipelines.reward.sanity_checks import run_sanity_checks
from pipelines.reward.sanity_checks import table as checks_table
from pipelines.reward.train import train_reward
from pipelines.scenes import CHECKPOINTS

REWARD_PLACEMENT = (
    *("threads_per_worker", "cpus_per_worker", "readers", "use_gpu", "max_failures", "checkpoint_every"),
    "micro_batch_size",
)
"""Settings of stage 2 that decide where it runs, how often it saves and how many pairs a worker computes at once. They
change the result by rounding at most."""


@dataclass(frozen=True)
class StepResult:
    """What a step has done, if something is missing that no later step needs."""

    summary: str
    missing: str = ""  # in a sentence; the step is run again by the next call


@dataclass(frozen=True)
class PipelineStep:
    """One step of `spatialt2i run`."""

    name: str
    title: str
    output: Callable[[RunPaths], Path]  # the file or folder that exists once the step is complete
    run: Callable[[Settings], str | StepResult]  # does the work and returns a summary
    inputs: Callable[[Settings], dict[str, object]]  # everything that decides the output

    def record_path(self, settings: Settings) -> Path:
        """File with the step's record, in the folder of its stage."""
        return step_record(run_paths(settings), self.name)

    def digest(self, settings: Settings) -> str:
        """SHA-256 of everything that decides the output."""
        return digest_of(self.inputs(settings))


def _build_pairs(settings: Settings) -> str:
    pairs = build_preferences(settings)
    return f"{pairs.pairs} pairs, {pairs.test} of them held out, in {pairs.directory}"


def _train_reward(settings: Settings) -> str:
    result = train_reward(settings)
    return f"{result.steps} optimizer steps on {result.pairs} pairs"


def _measure_accuracy(settings: Settings) -> StepResult:
    evaluation = evaluate_reward(settings)
    return StepResult(accuracy_table(evaluation), ask_again(evaluation.failed))


def _check_reward(settings: Settings) -> str:
    checks = run_sanity_checks(settings)
    if any(check.blocks for check in checks):
        print(coloured(checks_table(checks)))
        raise SystemExit("SpatialScore did not pass its sanity checks, so no policy is trained with it")
    return checks_table(checks)


def _train_policy(settings: Settings) -> str:
    policy = run_policy(settings)
    return (
        f"{policy.version} policy versions in {policy.training_seconds:.0f} s of training\n"
        f"LoRA for diffusers: {policy.export}"
    )


def _evaluate(settings: Settings) -> str:
    result = evaluate(settings)
    return f"{result}\nOpen {result.report} in a browser."


def _run_benchmarks(settings: Settings) -> str:
    from pipelines.benchmark.commands import conclude, run_all
    from pipelines.benchmark.work import load_work

    result, text = run_all(settings, load_work(settings))
    conclude(result)
    return text


def _flux(settings: Settings) -> dict[str, object]:
    """The base policy: its settings, and the digest of the shipped weights if it is the embedded one."""
    weights = digest_of_files(CHECKPOINTS / "flux") if settings.flux.model == EMBEDDED else settings.flux.model
    return {**asdict(replace(settings.flux, text_encoders_on_cpu=False)), "weights": weights}


def _pairs_inputs(settings: Settings) -> dict[str, object]:
    cfg = settings.preferences
    return {"pairs": fingerprint(settings), "candidates": cfg.pairs, "ending": final_settings(cfg)}


def _pairs_digest(settings: Settings) -> str:
    folders = enumerate(pairs_locations(settings))
    return digest_of({str(number): digest_of_names(Path(folder), "*.parquet") for number, folder in folders})


def _reward_inputs(settings: Settings) -> dict[str, object]:
    reward = {key: value for key, value in asdict(settings.reward).items() if key not in REWARD_PLACEMENT}
    embedded = settings.spatialscore.model == EMBEDDED
    return {
        "reward": reward,
        "spatialscore": asdict(replace(settings.spatialscore, attention="sdpa", gradient_checkpointing=False)),
        "backbone": digest_of_files(CHECKPOINTS / "qwen2_5_vl") if embedded else "",
        "pairs": _pairs_digest(settings),
    }


def _spatialscore(settings: Settings) -> str:
    """Digest of what decides the scores: not of the files that the measurement of the accuracy writes beside it."""
    return digest_of_files(spatialscore_folder(settings), leave_out=(CARD_FILE, CALIBRATION_FILE))


def _scored_pairs_inputs(settings: Settings) -> dict[str, object]:
    return {"model": _spatialscore(settings), "pairs": _pairs_digest(settings)}


def _policy_inputs(settings: Settings) -> dict[str, object]:
    prompts = {
        name: Path(path).read_text() if path and Path(path).is_file() else path
        for name, path in (("train", settings.policy.prompts), ("held out", settings.policy.held_out_prompts))
    }
    return {
        "policy": training_settings(settings),
        "minutes": settings.policy.minutes,
        "prompts": prompts,
        "flux": _flux(settings),
        "spatialscore": _spatialscore(settings),
    }


def _evaluation_inputs(settings: Settings) -> dict[str, object]:
    return {
        "evaluation": asdict(settings.evaluation),
        "flux": _flux(settings),
        "held out": settings.policy.held_out_prompts,
        "lora": digest_of_files(run_paths(settings).export),
        **({} if settings.export.version == "newest" else {"version": settings.export.version}),
        "spatialscore": _spatialscore(settings),
    }


def _benchmark_inputs(settings: Settings) -> dict[str, object]:
    """Judges' settings decide the answers, except for their addresses and prices."""
    cfg = settings.benchmark
    judges = (
        settings.tiif_judge,
        settings.unigenbench_judge,
        settings.dpg_judge,
        settings.spatialgeneval_judge,
        settings.geneval2_judge,
    )
    data = Path(cfg.data)
    return {
        "benchmark": asdict(replace(cfg, mirror="", chunk_images=1, out="")),
        "judges": [asdict(judge.identity()) for judge in judges],
        "other rewards": [settings.baselines.models, settings.baselines.revisions] if cfg.other_rewards else [],
        "detector": [settings.geneval.detector, settings.geneval.clip],
        "data": digest_of_files(data) if cfg.data and data.is_dir() else "",
        "evaluation": _evaluation_inputs(settings),
    }


STEPS = (
    PipelineStep(
        "preferences",
        "1 · Preference pairs (Ray Data)",
        lambda paths: paths.preferences,
        _build_pairs,
        _pairs_inputs,
    ),
    PipelineStep(
        "reward",
        "2 · SpatialScore (Ray Train)",
        lambda paths: paths.reward_model,
        _train_reward,
        _reward_inputs,
    ),
    PipelineStep(
        "accuracy",
        "2 · SpatialScore on held-out pairs",
        lambda paths: paths.reward_evaluation,
        _measure_accuracy,
        _scored_pairs_inputs,
    ),
    PipelineStep(
        "sanity_checks",
        "2 · Sanity checks of SpatialScore",
        lambda paths: paths.sanity_checks,
        _check_reward,
        _scored_pairs_inputs,
    ),
    PipelineStep(
        "policy",
        "3 · Top-k GRPO (Ray actors, Ray Serve)",
        lambda paths: paths.export,
        _train_policy,
        _policy_inputs,
    ),
    PipelineStep(
        "evaluation",
        "4 · Evaluation on held-out prompts",
        lambda paths: paths.evaluation_report,
        _evaluate,
        _evaluation_inputs,
    ),
)
"""The steps of every run, in order."""

BENCHMARK_STEP = PipelineStep(
    BENCHMARK,
    "5 · Public benchmarks",
    lambda paths: paths.benchmark_report,
    _run_benchmarks,
    _benchmark_inputs,
)
"""The last step if `benchmark.in_run` is set."""


def steps_of(settings: Settings) -> tuple[PipelineStep, ...]:
    """The steps of a run with these settings."""
    return (*STEPS, BENCHMARK_STEP) if settings.benchmark.in_run else STEPS
