"""Which version of a trained policy a command uses, and whether a run is finished."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.json_files import record_or_none
from conf import SettingsError, UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.common.prompts import draw_held_out_prompts
from pipelines.policy.checkpoint import Checkpoints, run_checkpoints
from pipelines.policy.evaluation_history import best_evaluation
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.resume import check_resumable

RECORD = "version.json"
"""File of an export that says which version it is."""


@dataclass(frozen=True)
class ExportRecord:
    """What an export holds."""

    policy_version: int
    moving_average: bool
    """Whether it is the moving average of the weights."""


def read_export_record(folder: Path) -> ExportRecord | None:
    """The record of an export; None if it has none that can be read, as those of version 0.2.0."""
    return record_or_none(str(folder / RECORD), ExportRecord)


def choose_version(settings: Settings) -> int | None:
    """The version that `export.version` names; None: the newest, in its own folder.

    Without an export of the newest version, which a finished run has, that is the version of the newest checkpoint.
    Raises UserError, with the versions that exist, if there is no such version.
    """
    choice, checkpoints = settings.export.version, run_checkpoints(settings)
    if choice == "newest" and run_paths(settings).export.is_dir():
        return None
    known = _known_versions(settings, checkpoints)
    if not known:
        raise UserError(f"no complete checkpoint at {checkpoints.location}: run `spatialt2i policy train` first")
    best = best_version(settings, known)
    if choice == "newest":
        return max(known)
    if choice == "best":
        if best is None:
            raise UserError(
                "export.version=best: no version that exists was evaluated on held-out prompts: choose one of "
                f"{_listed(known, None)}"
            )
        return best.iteration
    if int(choice) not in known:
        raise UserError(f"export.version={choice}: that version was not kept: choose one of {_listed(known, best)}")
    return int(choice)


def best_version(settings: Settings, among: list[int]) -> EvaluationRow | None:
    """The best evaluated version among some; None if none of them was evaluated."""
    rows = read_evaluations(run_paths(settings).evaluations)
    return best_evaluation(rows, settings.policy.evaluation.best_by, among)


def check_export_after_training(settings: Settings) -> None:
    """Raises SettingsError if a run that is to be trained cannot export the version that it is asked for."""
    choice, policy = settings.export.version, settings.policy
    if choice not in ("newest", "best"):
        raise SettingsError(
            f"export.version must be newest or best while a policy is trained, got {choice}: export that version "
            f"afterwards with `spatialt2i policy export export.version={choice}`"
        )
    held_out = draw_held_out_prompts(policy, settings.flux, settings.evaluation.seed)
    if choice == "best" and not (policy.evaluation.every and len(held_out)):
        raise SettingsError(
            "export.version=best needs evaluations during training: set policy.evaluation.every above 0 and "
            "policy.held_out_prompts"
        )


def finished_version(settings: Settings) -> int | None:
    """The last version of a run that is trained to its end and exported; None if something is left to do.

    Raises UserError if the run was trained with other settings.
    """
    policy, export = settings.policy, run_paths(settings).export
    newest = next(run_checkpoints(settings).manifests(), None)
    if newest is None or policy.resume == "never":
        return None
    check_resumable(newest, settings)
    out_of_time = 0 < policy.minutes * 60 <= newest.training_seconds
    is_trained = newest.version >= policy.iterations or out_of_time
    record = read_export_record(export)
    is_exported = export.is_dir() and (record is None or record.policy_version == newest.version)
    is_merged = not settings.export.merged or run_paths(settings).merged.is_dir()
    is_wanted = settings.export.version == "newest"
    return newest.version if is_trained and is_exported and is_merged and is_wanted else None


def _known_versions(settings: Settings, checkpoints: Checkpoints) -> list[int]:
    """The versions that have a checkpoint or an export, oldest first."""
    folder = run_paths(settings).exports
    exported = [int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted({*checkpoints.complete(), *exported})


def _listed(known: list[int], best: EvaluationRow | None) -> str:
    names = [f"{version} (best)" if best and version == best.iteration else str(version) for version in known]
    return ", ".join(names)
