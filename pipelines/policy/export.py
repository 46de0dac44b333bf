"""Writes the trained policy for others: a LoRA file of diffusers or a whole model, with a model card."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from actors.files import DamagedFileError, join, read_checked, write_file
from actors.policy.lora import save_lora
from actors.types import PolicyWeights
from actors.workers.learner import rank_file
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import RunPaths, run_paths
from pipelines.policy.checkpoint import Checkpoints, Manifest, run_checkpoints
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.merge import merge_lora
from pipelines.policy.model_card import model_card
from pipelines.policy.versions import RECORD, ExportRecord, choose_version


def export_chosen(settings: Settings) -> RunPaths:
    """Exports the version that `export.version` names. Returns the paths of that version.

    Raises UserError if the run has no such version, or if its checkpoint is damaged.
    """
    if settings.export.version == "newest":
        export_newest(settings)
        return run_paths(settings)
    return _export_version(choose_version(settings), settings)


def provide_export(settings: Settings) -> RunPaths:
    """Makes sure that the version that `export.version` names is exported. Returns the paths of that version.

    The newest version of a finished run is exported already. Raises UserError as `export_chosen` does.
    """
    return _export_version(choose_version(settings), settings)


def export_newest(settings: Settings) -> Path:
    """Exports the newest checkpoint of a run and returns the folder. Raises UserError if the run has none."""
    checkpoints = run_checkpoints(settings)
    newest = checkpoints.newest()
    if newest is None:
        raise UserError(f"no complete checkpoint at {checkpoints.location}: run `spatialt2i policy train` first")
    return export_lora(_read_weights(newest, checkpoints, settings), settings)


def _export_version(version: int | None, settings: Settings) -> RunPaths:
    """Exports a version, unless it is the newest or only its export is left."""
    paths, checkpoints = run_paths(settings, version), run_checkpoints(settings)
    manifest = next((each for each in checkpoints.manifests() if each.version == version), None)
    if manifest:
        export_lora(_read_weights(manifest, checkpoints, settings), settings, version)
    return paths


def _read_weights(manifest: Manifest, checkpoints: Checkpoints, settings: Settings) -> PolicyWeights:
    """The LoRA in a checkpoint: the moving average, or the weights themselves. Raises UserError if it is damaged."""
    try:
        lora = read_checkpoint_lora(checkpoints.folder(manifest.version), manifest, settings.evaluation.use_ema)
    except DamagedFileError as error:
        raise UserError(
            f"the checkpoint of version {manifest.version} is damaged ({error}): choose another export.version"
        ) from error
    return PolicyWeights(manifest.version, lora)


def read_checkpoint_lora(folder: str, manifest: Manifest, average: bool) -> dict[str, np.ndarray]:
    """The LoRA in the folder of a checkpoint, by the keys of the policy: the moving average, or the weights themselves.

    Raises DamagedFileError if it cannot be read.
    """
    name = rank_file(0)
    try:
        return _read_lora(read_checked(join(folder, name), manifest.files[name]), "ema" if average else "lora")
    except (FileNotFoundError, KeyError) as error:
        raise DamagedFileError(str(error)) from error


def _read_lora(content: bytes, key: str) -> dict[str, np.ndarray]:
    """The LoRA under a key of a learner's state. Raises DamagedFileError if the file is no such state."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return {name: value.numpy() for name, value in state[key].items()}
    except Exception as error:  # the boundary to a foreign file: torch raises whatever its bytes lead to
        raise DamagedFileError(f"{rank_file(0)} is no state of a learner: {type(error).__name__}") from error


def export_lora(weights: PolicyWeights, settings: Settings, version: int | None = None) -> Path:
    """Writes the LoRA, which `load_lora_weights(folder)` of the plain pipeline reads, and a model card.

    With `export.merged` it also writes the whole model with the LoRA merged. Returns the folder of the LoRA: that of
    `version`, or of the newest.
    """
    paths, base = run_paths(settings, version), flux_location(settings)
    state = {key: torch.from_numpy(np.array(value)) for key, value in weights.lora.items()}
    save_lora(state, settings.flux, paths.export)
    record = ExportRecord(weights.version, settings.evaluation.use_ema)
    write_file(str(paths.export / RECORD), json.dumps(asdict(record)).encode())
    write_file(str(paths.export / "README.md"), model_card(settings, base, weights.version, merged=False).encode())
    if settings.export.merged:
        print(merge_lora(base, paths.export, paths.merged, settings.flux.dtype, settings.merge))
        write_file(str(paths.merged / "README.md"), model_card(settings, base, weights.version, merged=True).encode())
    return paths.export
