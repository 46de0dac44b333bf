"""Writes the trained policy for others: a LoRA file of diffusers or a whole model, with a model card."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.files import join, read_file, write_file
from actors.folders import write_folder
from actors.policy.base import DTYPES
from actors.policy.lora import save_lora
from actors.policy.registry import family_of
from actors.types import PolicyWeights
from actors.workers.learner import rank_file
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.model_card import model_card


def export_newest(settings: Settings) -> Path:
    """Exports the newest checkpoint of a run and returns the folder. Raises UserError if the run has none."""
    checkpoints = run_checkpoints(settings)
    newest = checkpoints.newest()
    if newest is None:
        raise UserError(f"no complete checkpoint at {checkpoints.location}: run `spatialt2i policy train` first")
    content = io.BytesIO(read_file(join(checkpoints.folder(newest.version), rank_file(0))))
    state = torch.load(content, map_location="cpu", weights_only=True)
    lora = state["ema"] if settings.evaluation.use_ema else state["lora"]
    weights = PolicyWeights(newest.version, {key: value.numpy() for key, value in lora.items()})
    return export_lora(weights, settings)


def export_lora(weights: PolicyWeights, settings: Settings) -> Path:
    """Writes the LoRA, which `load_lora_weights(folder)` of the plain pipeline reads, and a model card.

    With `export.merged` it also writes the whole model with the LoRA merged. Returns the folder of the LoRA.
    """
    paths, base = run_paths(settings), flux_location(settings)
    state = {key: torch.from_numpy(np.array(value)) for key, value in weights.lora.items()}
    save_lora(state, settings.flux, paths.export)
    card = model_card(settings, base, weights.version, paths.export, merged=False)
    write_file(str(paths.export / "README.md"), card.encode())
    if settings.export.merged:
        merge_lora(base, paths.export, paths.merged, settings.flux.dtype)
        card = model_card(settings, base, weights.version, paths.merged, merged=True)
        write_file(str(paths.merged / "README.md"), card.encode())
    return paths.export


def merge_lora(base: str, lora: Path, target: Path, dtype: str) -> None:
    """Writes the pipeline at `base` with an exported LoRA merged into its weights to the folder `target`.

    The merged weights are W + alpha/rank B A, rounded to `dtype`. A plain `from_pretrained(target)` loads them.
    """
    pipeline: Any = family_of(base).pipeline_class.from_pretrained(base, torch_dtype=DTYPES[dtype])
    pipeline.load_lora_weights(lora)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    write_folder(target, pipeline.save_pretrained)
