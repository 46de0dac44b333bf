"""Trains every variant under every seed, once: a finished run is kept, an unfinished one is resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.files import write_file
from conf import Settings, dump, load
from conf.ablation import VARIANTS
from conf.flux import EMBEDDED
from pipelines.common.fingerprints import digest_of_text
from pipelines.common.paths import score_folder
from pipelines.operations.ablation.report import write_report
from pipelines.policy.checkpoint import training_settings
from pipelines.policy.fingerprint import input_fingerprints
from pipelines.policy.metrics import EvaluationRow
from pipelines.policy.stage import run_policy

FORWARDS = ("sampling_groups", "sampling_rows", "replay_rows", "rollout_actors", "rollout_threads", "learner_threads")


@dataclass(frozen=True)
class Run:
    """One variant under one seed."""

    variant: str
    seed: int
    settings: Settings
    sources: Mapping[str, str]

    @property
    def outcome(self) -> Path:
        """The file that says what the run was made with and what it reached; absent until it is finished."""
        return Path(self.settings.run_dir, "outcome.json")

    def made_with(self) -> dict[str, object]:
        """All that decides the curve: what is learned, what it begins from and is rewarded by, and how it is judged."""
        own = self.settings
        return {
            **training_settings(own),
            **self.sources,
            "the file policy.held_out_prompts": digest_of_text(own.policy.held_out_prompts),
            **{f"policy.{name}": getattr(own.policy, name) for name in FORWARDS},  # they decide an update's seconds
            "evaluation.denoise_steps": own.evaluation.denoise_steps,
            "evaluation.seed": own.evaluation.seed,
            "ablation.evaluate_every": own.policy.evaluation.every,
            "ablation.evaluate_prompts": own.policy.evaluation.prompts,
        }

    def write(self, evaluations: Sequence[EvaluationRow]) -> None:
        """Writes `outcome`."""
        stored = {"settings": self.made_with(), "evaluations": [asdict(row) for row in evaluations]}
        write_file(str(self.outcome), json.dumps(stored, indent=1).encode())

    def curve(self) -> tuple[EvaluationRow, ...]:
        """The held-out evaluations of a finished run, in order; none if it is not finished.

        Raises ValueError, naming every difference, if it was made with other settings than it would be now. (One that
        was only begun is refused by its own checkpoints.)
        """
        if not self.outcome.exists():
            return ()
        stored = json.loads(self.outcome.read_text())
        if changed := _differences(stored["settings"], self.made_with()):
            raise ValueError(
                f"{self.outcome} was made with other settings than this ablation's: {'; '.join(changed)}. Remove "
                f"{self.outcome.parent}, or choose another run_dir"
            )
        return tuple(EvaluationRow(**row) for row in stored["evaluations"])


def _differences(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs, in words. What an older file does not tell counts as different."""
    return [
        f"{key} was {repr(then[key]) if key in then else 'not noted'} and is {now.get(key)!r}"
        for key in sorted(now.keys() | then.keys())
        if key not in then or then[key] != now.get(key)
    ]


def ablation_folder(settings: Settings) -> Path:
    """Where an ablation keeps its runs and its report."""
    return Path(settings.run_dir, "ablation")


def planned(settings: Settings) -> Iterator[Run]:
    """All runs, seed by seed, so that an ablation that was stopped early still compares all variants."""
    own, folder = settings.ablation, ablation_folder(settings)
    dump(settings, folder / "settings.yaml")
    for seed in range(own.seeds):
        for variant in own.variants:
            overrides = [
                f"run_dir={folder / variant / f'seed-{seed}'}", f"serving.model={score_folder(settings)}",
                f"policy.seed={seed}", f"policy.iterations={own.iterations}", "policy.minutes=0",
                "policy.optimizer.final_lr_fraction=1", "policy.checkpoint.every=5",
                f"policy.evaluation.every={own.evaluate_every}",
                f"policy.evaluation.prompts={own.evaluate_prompts}", "policy.checkpoint.dir=''",
            ]  # fmt: skip
            varied = load(str(folder / "settings.yaml"), [*overrides, *VARIANTS[variant]])
            yield Run(variant, seed, varied, input_fingerprints(varied))


def run_ablation(settings: Settings, log: Callable[[str], None] = print) -> Path:
    """Makes the runs that are missing, then the report, whose path it returns. Ray must be initialised.

    Raises ValueError outside the scenes world: only there does an exact checker, and not a reward, judge the variants;
    and, before anything is trained, where a run was made with other settings: runs of one table must be comparable.
    """
    if settings.flux.model != EMBEDDED:
        raise ValueError(
            f"an ablation is judged by the scenes' exact checker; flux.model={settings.flux.model} has none"
        )
    runs = list(planned(settings))
    missing = [run for run in runs if not run.curve()]
    log(f"{len(runs)} runs of {settings.ablation.iterations} iterations, {len(runs) - len(missing)} of them finished")
    started = time.monotonic()
    for done, run in enumerate(missing):
        spent = (time.monotonic() - started) / 60
        if 0 < settings.ablation.minutes <= spent:
            log(f"{len(missing) - done} runs are left: call again to go on")
            break
        left = f", {spent / done * (len(missing) - done):.0f} min left" if done else ""
        log(f"run {len(runs) - len(missing) + done + 1} of {len(runs)}: {run.variant}, seed {run.seed}{left}")
        result = run_policy(run.settings, lambda line: None)
        run.write(result.evaluations)
        last = result.evaluations[-1]
        log(f"    relations right: {last.relation_accuracy_short:.1%} short, {last.relation_accuracy_long:.1%} long; "
            f"{last.training_seconds:.0f} s of training")  # fmt: skip
        write_report(_curves(runs), settings, ablation_folder(settings))
    return write_report(_curves(runs), settings, ablation_folder(settings))


def _curves(runs: list[Run]) -> dict[str, list[tuple[EvaluationRow, ...]]]:
    """Variant -> the curves of its finished seeds."""
    curves: dict[str, list[tuple[EvaluationRow, ...]]] = {}
    for run in runs:
        if curve := run.curve():
            curves.setdefault(run.variant, []).append(curve)
    return curves
