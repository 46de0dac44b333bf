"""The steps of the whole pipeline: what each does, and what its output depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from conf import Settings
from conf.flux import EMBEDDED
from pipelines.common.fingerprints import digest_of, digest_of_files, digest_of_names
from pipelines.common.paths import preferences_folder, score_folder
from pipelines.evaluation.run import evaluate
from pipelines.policy.checkpoint import training_settings
from pipelines.policy.stage import run_policy
from pipelines.preferences.build import build_preferences, fingerprint
from pipelines.reward.evaluate import evaluate_reward
from pipelines.reward.report import table as accuracy_table
from pipelines.reward.sanity_checks import run_sanity_checks
from pipelines.reward.sanity_checks import table as checks_table
from pipelines.reward.train import train_reward
from pipelines.scenes import CHECKPOINTS

PLACEMENT = ("threads_per_worker", "cpus_per_worker", "use_gpu", "max_failures", "checkpoint_every")
"""Settings of stage 2 that say where work is done and how it is saved, not what it yields."""


@dataclass(frozen=True)
class Step:
    """One step. `work` returns what it says at its end; `inputs` gives everything that decides the output."""

    name: str
    title: str
    output: str  # file or folder under the run's directory; with the receipt beside it, the step is complete
    work: Callable[[Settings], str]
    inputs: Callable[[Settings], dict[str, object]]

    def record_path(self, settings: Settings) -> Path:
        """Where this step's receipt lies: in its stage's folder, under a name that Arrow passes over."""
        return Path(settings.run_dir).absolute() / self.output.partition("/")[0] / f"_{self.name}.receipt.json"

    def digest(self, settings: Settings) -> str:
        """Of everything that decides the output."""
        return digest_of(self.inputs(settings))


def _build(settings: Settings) -> str:
    pairs = build_preferences(settings)
    return f"{pairs.pairs} pairs, {pairs.test} of them held out, in {pairs.directory}"


def _fit(settings: Settings) -> str:
    fitted = train_reward(settings)
    return f"{fitted.steps} steps on {fitted.pairs} pairs"


def _measure(settings: Settings) -> str:
    return accuracy_table(evaluate_reward(settings))


def _examine(settings: Settings) -> str:
    checks = run_sanity_checks(settings)
    if not all(check.passed for check in checks):
        print(checks_table(checks))
        raise SystemExit("SpatialScore did not pass its examination and will not steer a policy")
    return checks_table(checks)


def _train(settings: Settings) -> str:
    policy = run_policy(settings)
    return (
        f"{policy.version} policy versions in {policy.training_seconds:.0f} s of training\n"
        f"The LoRA for diffusers: {policy.export}"
    )


def _evaluate(settings: Settings) -> str:
    result = evaluate(settings)
    return f"{result}\nOpen {result.report} in a browser."


def _without_placement(section: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in section.items() if key not in PLACEMENT}


def _flux(settings: Settings) -> dict[str, object]:
    """The policy's base: its settings, and the shipped weights where it is the embedded one."""
    weights = digest_of_files(CHECKPOINTS / "flux") if settings.flux.model == EMBEDDED else settings.flux.model
    return {**asdict(replace(settings.flux, text_encoders_on_cpu=False)), "weights": weights}


def _pairs_inputs(settings: Settings) -> dict[str, object]:
    return {"pairs": fingerprint(settings)}


def _fit_inputs(settings: Settings) -> dict[str, object]:
    return {
        "reward": _without_placement(asdict(settings.reward)),
        "spatialscore": asdict(replace(settings.spatialscore, attention="sdpa", gradient_checkpointing=False)),
        "backbone": digest_of_files(CHECKPOINTS / "qwen2_5_vl") if settings.spatialscore.model == EMBEDDED else "",
        "pairs": digest_of_names(Path(preferences_folder(settings)), "*.parquet"),
    }


def _score_inputs(settings: Settings) -> dict[str, object]:
    pairs = digest_of_names(Path(preferences_folder(settings)), "*.parquet")
    return {"model": digest_of_files(score_folder(settings)), "pairs": pairs}


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
        "spatialscore": digest_of_files(score_folder(settings)),
    }


def _evaluation_inputs(settings: Settings) -> dict[str, object]:
    return {
        "evaluation": asdict(settings.evaluation),
        "flux": _flux(settings),
        "held out": settings.policy.held_out_prompts,
        "lora": digest_of_files(Path(settings.run_dir, "policy", "export")),
        "spatialscore": digest_of_files(score_folder(settings)),
    }


STEPS = (
    Step("preferences", "1 · Preference pairs (Ray Data)", "preferences", _build, _pairs_inputs),
    Step("fit", "2 · SpatialScore (Ray Train)", "reward/model", _fit, _fit_inputs),
    Step("accuracy", "2 · SpatialScore on held-out pairs", "reward/report.json", _measure, _score_inputs),
    Step("doctor", "2 · SpatialScore at the doctor's", "reward/doctor.json", _examine, _score_inputs),
    Step("policy", "3 · Top-k GRPO (Ray actors, Ray Serve)", "policy/export", _train, _policy_inputs),
    Step("evaluation", "4 · Evaluation on held-out prompts", "evaluation/report.html", _evaluate, _evaluation_inputs),
)
