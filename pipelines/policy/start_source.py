"""What `policy.start_from` names, and whether it fits the run. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from actors.files import exists, is_folder, join, list_folder
from actors.json_files import read_record
from actors.policy.lora_header import PEFT_WEIGHT_NAME, WEIGHT_NAME, LoraHeader, read_lora_header, unmatched_layers
from conf import Settings, SettingsError, load_recorded
from pipelines.common.paths import run_paths
from pipelines.common.run_lookup import is_run, recorded_in
from pipelines.policy.checkpoint import MANIFEST, Manifest, run_checkpoints
from pipelines.policy.resume import training_settings


@dataclass(frozen=True)
class LoraFile:
    """A LoRA in a safetensors file."""

    location: str
    header: LoraHeader
    kind: ClassVar[str] = "a LoRA file"

    def __str__(self) -> str:
        """The source in words."""
        return self.location


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint of a run."""

    location: str
    manifest: Manifest

    @property
    def kind(self) -> str:
        """The source in words, without its place."""
        return f"policy version {self.manifest.version}"

    def setting(self, name: str) -> object:
        """A setting of the run that wrote it."""
        return self.manifest.settings.get(name, training_settings(Settings())[name])

    def __str__(self) -> str:
        """The source in words."""
        return f"version {self.manifest.version} in {self.location}"


StartSource = LoraFile | CheckpointFolder


def find_start(settings: Settings) -> StartSource:
    """The LoRA that `policy.start_from` names. Of a run directory: that of its newest checkpoint, else its export.

    Raises SettingsError if there is none.
    """
    given = settings.policy.start_from
    location = given if "://" in given else str(Path(given).expanduser().absolute())
    try:
        _refuse_own_files(location, settings)
        found = _source_at(location) or _newest_of_run(location)
    except (FileNotFoundError, ValueError) as error:
        raise SettingsError(f"policy.start_from={given} cannot be used: {error}") from error
    if found is None:
        raise SettingsError(
            f"policy.start_from={given} must be a LoRA (a .safetensors file, or a folder with {WEIGHT_NAME} or "
            f"{PEFT_WEIGHT_NAME}), the folder of a complete checkpoint, or a run directory with a trained policy: "
            f"{'it holds none of them' if is_folder(location) else 'there is no such file or folder'}"
        )
    return found


def check_start(settings: Settings) -> None:
    """Raises SettingsError if a run that is about to begin cannot start from `policy.start_from`.

    It compares rank and layers. The shapes are compared when the base's own are known; see `start_weights`.
    """
    if settings.policy.start_from and not is_begun(settings):
        _check_fit(find_start(settings), settings)


def is_begun(settings: Settings) -> bool:
    """Whether the run goes on from a checkpoint, so that it reads its start no more."""
    return settings.policy.resume != "never" and next(run_checkpoints(settings).manifests(), None) is not None


def _refuse_own_files(location: str, settings: Settings) -> None:
    """Raises ValueError for the run itself and its checkpoints, which `policy.resume=never` deletes."""
    if location == str(run_paths(settings).root) or location.startswith(f"{run_checkpoints(settings).location}/"):
        raise ValueError("it belongs to the run itself: choose another run_dir for the new run")


def _source_at(location: str) -> StartSource | None:
    """The source in a file or folder, without looking for the parts of a run."""
    if exists(location):
        return LoraFile(location, read_lora_header(location))
    names = list_folder(location)
    if MANIFEST in names:
        return CheckpointFolder(location, read_record(join(location, MANIFEST), Manifest))
    for name in (WEIGHT_NAME, PEFT_WEIGHT_NAME):
        if name in names:
            return LoraFile(join(location, name), read_lora_header(join(location, name)))
    return None


def _newest_of_run(location: str) -> StartSource | None:
    if "://" in location or not is_run(Path(location)):
        return None
    recorded = recorded_in(location)
    run = replace(load_recorded(recorded) if recorded else Settings(), run_dir=location)
    checkpoints = run_checkpoints(run)
    if newest := next(checkpoints.manifests(), None):
        return CheckpointFolder(checkpoints.folder(newest.version), newest)
    return _source_at(str(run_paths(run).export))


def _check_fit(source: StartSource, settings: Settings) -> None:
    """Raises SettingsError, with all differences, if rank or layers differ from those of the policy."""
    flux = settings.flux
    rank = source.header.rank if isinstance(source, LoraFile) else source.setting("flux.lora_rank")
    differences = [f"its rank is {rank}, flux.lora_rank is {flux.lora_rank}"] if rank != flux.lora_rank else []
    if isinstance(source, LoraFile):
        extra, missing = unmatched_layers(source.header.layers, flux.lora_targets)
    else:
        theirs, ours = (set(map(str, names)) for names in (_targets_of(source), flux.lora_targets))
        extra, missing = sorted(theirs - ours), sorted(ours - theirs)
    if extra:
        differences.append(f"flux.lora_targets does not name {_some(extra)}, which it adapts")
    if missing:
        differences.append(f"it does not adapt {_some(missing)} of flux.lora_targets")
    if differences:
        raise SettingsError(
            f"policy.start_from={settings.policy.start_from} must be a LoRA of the policy's rank and layers, but "
            f"{'; '.join(differences)}: set flux.lora_rank and flux.lora_targets to those of {source}"
        )


def _targets_of(source: CheckpointFolder) -> Sequence[object]:
    targets = source.setting("flux.lora_targets")
    return targets if isinstance(targets, list) else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
