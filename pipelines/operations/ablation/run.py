"""Trains every variant under every seed once. A finished run is kept, and an unfinished run is resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file
from actors.json_files import record_or_none
from conf import Settings, SettingsError, dump, load
from conf.ablation import VARIANTS
from pipelines.common.fingerprints import digest_of_text
from pipelines.common.paths import run_paths, spatialscore_folder
from pipelines.common.progress_line import ProgressLine
from pipelines.common.scenes_only import check_ablation
from pipelines.operations.ablation.report import write_report
from pipelines.policy.fingerprint import input_fingerprints
from pipelines.policy.metrics import EvaluationRow
from pipelines.policy.resume import training_settings
from pipelines.policy.train import PolicyResult, run_policy

Log = Callable[[str], None]
Train = Callable[[Settings, Log], PolicyResult]


@dataclass(frozen=True)
class Outcome:
    """The content of a finished run's file."""

    settings: dict[str, object]
    evaluations: list[EvaluationRow]


@dataclass(frozen=True)
class AblationRun:
    """One variant under one seed."""

    variant: str
    seed: int
    settings: Settings
    fingerprints: Mapping[str, str]  # of what the run reads

    @property
    def outcome(self) -> Path:
        """The file with the run's identity and its evaluations. It is absent until the run is finished."""
        return run_paths(self.settings).outcome

    def identity(self) -> dict[str, object]:
        """Everything that decides the curve: what is learned from which inputs, how fast, and how it is judged."""
        policy, evaluation = self.settings.policy, self.settings.evaluation
        return {
            **training_settings(self.settings),
            **self.fingerprints,
            "the file policy.held_out_prompts": digest_of_text(policy.held_out_prompts),
            # the next six decide the seconds of an iteration, which the report compares
            "policy.sampling.batch": policy.sampling.batch,
            "policy.learner.replay_batch": policy.learner.replay_batch,
            "policy.learner.threads": policy.learner.threads,
            "policy.placement": policy.placement,
            "policy.rollout.max_actors": policy.rollout.max_actors,
            "policy.rollout.threads": policy.rollout.threads,
            "evaluation.denoise_steps": evaluation.denoise_steps,
            "evaluation.seed": evaluation.seed,
            "ablation.evaluate_every": policy.evaluation.every,
            "ablation.evaluate_prompts": policy.evaluation.prompts,
        }

    def write(self, evaluations: Sequence[EvaluationRow]) -> None:
        """Writes `outcome`."""
        content = {"settings": self.identity(), "evaluations": [asdict(row) for row in evaluations]}
        write_file(str(self.outcome), json.dumps(content, indent=1).encode())

    def curve(self) -> tuple[EvaluationRow, ...]:
        """The held-out evaluations of a finished run, in order; empty if the run is not finished.

        Raises SettingsError, with every difference, if the run was made with settings other than the current ones.
        (An unfinished run with other settings is refused when it is resumed from its checkpoint.)
        """
        outcome = record_or_none(str(self.outcome), Outcome)  # a run whose outcome is damaged ends again
        if outcome is None:
            return ()
        if changed := _differences(outcome.settings, self.identity()):
            raise SettingsError(
                f"{self.outcome} was made with other settings than this ablation's: {'; '.join(changed)}. Remove "
                f"{self.outcome.parent}, or choose another run_dir"
            )
        return tuple(outcome.evaluations)


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The differences in words. A key that an older file does not have counts as different."""
    return [
        f"{key} was {repr(before[key]) if key in before else 'not recorded'} and is {now.get(key)!r}"
        for key in sorted(now.keys() | before.keys())
        if key not in before or before[key] != now.get(key)
    ]


def plan_runs(settings: Settings) -> Iterator[AblationRun]:
    """All runs, seed by seed, so that an ablation that is stopped early still compares all variants.

    Writes the settings that all runs start from into the ablation's folder.
    """
    ablation, paths = settings.ablation, run_paths(settings)
    dump(settings, paths.ablation_settings)
    for seed in range(ablation.seeds):
        for variant in ablation.variants:
            overrides = [
                f"run_dir={paths.ablation_run(variant, seed).root}",
                f"serving.model={spatialscore_folder(settings)}",
                f"policy.seed={seed}",
                f"policy.iterations={ablation.iterations}",
                "policy.minutes=0",
                "policy.strict_resume=true",
                "policy.optimizer.final_lr_fraction=1",
                "policy.checkpoint.every=5",
                "policy.checkpoint.dir=''",
                f"policy.evaluation.every={ablation.evaluate_every}",
                f"policy.evaluation.prompts={ablation.evaluate_prompts}",
            ]
            varied = load(str(paths.ablation_settings), [*overrides, *VARIANTS[variant]])
            yield AblationRun(variant, seed, varied, input_fingerprints(varied))


def run_ablation(settings: Settings, log: Log = print, train: Train = run_policy) -> Path:
    """Trains the missing runs with `train`, writes the report and returns its path. Ray must be initialised.

    Raises SettingsError outside the scenes world, because only there an exact checker, and not a reward model, judges
    the variants. Raises it, before anything is trained, if a finished run was made with other settings, because the
    runs of one table must be comparable.
    """
    check_ablation(settings)
    runs = list(plan_runs(settings))
    missing = [run for run in runs if not run.curve()]
    finished = len(runs) - len(missing)
    log(f"{len(runs)} runs of {settings.ablation.iterations} iterations, {finished} of them finished")
    started = time.monotonic()
    for done, run in enumerate(missing):
        minutes = (time.monotonic() - started) / 60
        if 0 < settings.ablation.minutes <= minutes:
            log(f"ablation.minutes is over: {len(missing) - done} runs are left; start again to continue")
            break
        left = f", {minutes / done * (len(missing) - done):.0f} min left" if done else ""
        name = f"run {finished + done + 1} of {len(runs)}: {run.variant}, seed {run.seed}"
        log(f"{name}{left}")
        with ProgressLine(name, log) as progress:
            result = train(run.settings, lambda line: progress.update(line.partition(" | ")[0]))
        run.write(result.evaluations)
        last = result.evaluations[-1]
        log(
            f"    relations correct: {last.relation_accuracy_short:.1%} on short prompts, "
            f"{last.relation_accuracy_long:.1%} on long prompts; {last.training_seconds:.0f} s of training"
        )
        write_report(_finished_curves(runs), settings, run_paths(settings))
    return write_report(_finished_curves(runs), settings, run_paths(settings))


def _finished_curves(runs: Sequence[AblationRun]) -> dict[str, list[tuple[EvaluationRow, ...]]]:
    """Variant -> the curves of its finished seeds."""
    curves: dict[str, list[tuple[EvaluationRow, ...]]] = {}
    for run in runs:
        if curve := run.curve():
            curves.setdefault(run.variant, []).append(curve)
    return curves
