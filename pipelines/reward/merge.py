"""`reward merge`: writes the run's SpatialScore with its LoRA merged into the backbone, for use without PEFT."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from actors.dtypes import DTYPES
from actors.folders import write_folder
from actors.spatialscore import SpatialScorer, load
from actors.spatialscore.calibration import CALIBRATION_FILE
from actors.spatialscore.config import ADAPTER_FILE, BACKBONE_FOLDER
from actors.spatialscore.loading import read_config
from conf import UserError
from conf.rules import DTYPE_BYTES, Dtype
from conf.settings import Settings
from pipelines.common.host_memory import PROCESS, downloaded, stored_weights
from pipelines.common.merge_loss import MERGE_BYTES, merge_loss, require_merge_memory, require_small_loss
from pipelines.common.paths import run_paths
from pipelines.reward.served_model import served_model

INPUTS = 8
"""Rows whose scores are compared before and after the merge."""
_PROMPTS = ("a red circle left of a blue square", "a cup on a table", "two birds above a tree", "a lamp behind a chair")


def write_merged(settings: Settings, log: Callable[[str], None] = print) -> Path:
    """Writes <run_dir>/reward/merged in `merge.dtype` and returns its path. `log` takes lines about what is lost.

    Each layer is merged in float32 and rounded once, whatever the dtype of the backbone. Raises UserError if the run
    has no SpatialScore, if its LoRA is merged already, if rounding would lose more of the trained change than
    `merge.max_loss`, or, before anything is loaded, if this machine has too little memory; then nothing is written.
    """
    source, target = served_model(settings), run_paths(settings).reward_merged
    if not (Path(source) / ADAPTER_FILE).is_file():
        raise UserError(f"the LoRA of {source} is merged already: set serving.model to one with a separate LoRA")
    require_merge_memory(source, partial(merge_memory, source), settings.merge.dtype)
    scorer = SpatialScorer(load(source))
    before = _scores(scorer)
    model = scorer.model
    loss = merge_loss(model.backbone, settings.merge.dtype)
    require_small_loss(loss, settings.merge)
    if settings.merge.dtype == "float32":
        model.backbone.float()
    model.merge()  # adds in float32 to weights of any dtype
    cast(nn.Module, model.backbone).to(DTYPES[settings.merge.dtype])
    model.config = replace(model.config, dtype=settings.merge.dtype)
    change = float(np.abs(_scores(scorer) - before).max())
    log(f"{loss}; scores of {INPUTS} noise images change by {change:.2g} at most, of a spread of {before.std():.2g}")
    calibration = Path(source) / CALIBRATION_FILE

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        if calibration.is_file():  # rounding changes scores by far less than the temperature
            shutil.copy(calibration, folder)

    write_folder(target, write)
    return target


def merge_memory(source: str, dtype: Dtype) -> int:
    """Bytes that `write_merged` needs at its peak for the SpatialScore at `source` and `merge.dtype` = `dtype`."""
    config = read_config(source)
    folder = Path(source) / BACKBONE_FOLDER if config.model == BACKBONE_FOLDER else downloaded(config.model)
    weights, layers = (stored_weights(folder, without) for without in (("lm_head.",), ("lm_head.", "embed_tokens.")))
    size = max(DTYPE_BYTES[config.dtype], DTYPE_BYTES[dtype])
    # One of these is copied at a time: the embedding, to set one row, or a layer that is merged.
    copied = max(size * weights.largest, MERGE_BYTES[config.dtype] * layers.largest)
    return PROCESS + size * weights.parameters + copied


def _scores(scorer: SpatialScorer) -> np.ndarray:
    """Scores of images of noise  # [INPUTS]. They show the rounding of both models, not what the model has learned."""
    images = np.random.default_rng(0).integers(0, 256, (INPUTS, 64, 64, 3), dtype=np.uint8)
    return scorer.score(images, [_PROMPTS[i % len(_PROMPTS)] for i in range(INPUTS)]).mu
