"""The trained policy as others load it: diffusers' LoRA file, or a whole model, with a card that shows how."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.files import join, read_file, write_file, write_folder
from actors.policy.base import DTYPES
from actors.policy.lora import save_lora
from actors.policy.registry import family_of
from actors.types import PolicyWeights
from actors.workers.learner import rank_file
from conf.settings import Settings
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.model_card import model_card


def export_newest(settings: Settings) -> Path:
    """Exports the newest checkpoint of a run to `<run_dir>/policy/export`. Raises FileNotFoundError if it has none."""
    checkpoints = run_checkpoints(settings)
    newest = checkpoints.newest()
    if newest is None:
        raise FileNotFoundError(
            f"no complete checkpoint at {checkpoints.location}: run `spatialt2i policy train` first"
        )
    content = io.BytesIO(read_file(join(checkpoints.folder(newest.version), rank_file(0))))
    state = torch.load(content, map_location="cpu", weights_only=True)
    lora = state["ema"] if settings.evaluation.use_ema else state["lora"]
    weights = PolicyWeights(newest.version, {key: value.numpy() for key, value in lora.items()})
    return export_lora(weights, settings)


def export_lora(weights: PolicyWeights, settings: Settings) -> Path:
    """Writes the LoRA that `load_lora_weights(directory)` of the plain pipeline reads, and a model card.

    With `export.merged` also the whole model, the LoRA folded in, to `<run_dir>/policy/merged`. Returns the LoRA's
    directory, `<run_dir>/policy/export`.
    """
    directory = Path(settings.run_dir, "policy", "export")
    state = {key: torch.from_numpy(np.array(value)) for key, value in weights.lora.items()}
    save_lora(state, settings.flux, directory)
    base = flux_location(settings)
    write_file(str(directory / "README.md"), model_card(settings, base, weights.version, directory, False).encode())
    if settings.export.merged:
        target = directory.with_name("merged")
        merge_lora(base, directory, target, settings.flux.dtype)
        write_file(str(target / "README.md"), model_card(settings, base, weights.version, target, True).encode())
    return directory


def merge_lora(base: str, lora: Path, target: Path, dtype: str) -> None:
    """Writes a whole pipeline to `target`: the one at `base` with an exported LoRA folded into its weights.

    W + alpha/rank B A, rounded to `dtype`. A plain `from_pretrained(target)` loads it.
    """
    pipeline: Any = family_of(base).pipeline_class.from_pretrained(base, torch_dtype=DTYPES[dtype])
    pipeline.load_lora_weights(lora)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    write_folder(target, pipeline.save_pretrained)
