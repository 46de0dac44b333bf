"""Sanity checks of a SpatialScore's directory: were its weights trained, and are they saved completely?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from actors.spatialscore import SpatialScorer, load
from actors.spatialscore.config import ADAPTER_FILE
from pipelines.reward.data import Pair
from pipelines.reward.sanity_report import SanityCheck

RELOAD_TOLERANCE = 1e-5
RELOAD_PAIRS = 16


def check_reload(scorer: SpatialScorer, model: str, pairs: Sequence[Pair]) -> SanityCheck:
    """The model should give the same scores after it is saved and loaded once more. `model`: its directory."""
    images = [pair.image_w for pair in pairs[:RELOAD_PAIRS]]
    prompts = [pair.prompt for pair in pairs[:RELOAD_PAIRS]]
    with tempfile.TemporaryDirectory() as folder:
        load(model).save_pretrained(folder)
        reloaded = SpatialScorer.from_pretrained(folder).score(images=images, prompts=prompts).mu
    difference = float(np.abs(reloaded - scorer.score(images=images, prompts=prompts).mu).max())
    return SanityCheck(
        name="save and load",
        passed=difference <= RELOAD_TOLERANCE,
        value=difference,
        requirement=f"at most {RELOAD_TOLERANCE:g}",
        finding=f"largest difference of a score after saving and loading: {difference:.1g}",
        if_failed="The saved directory does not give the scores of the model in memory: weights are lost or changed on "
        "the way to disk. The reward pool would serve another model than the one that was measured.",
    )


def check_lora_trained(model: str) -> SanityCheck:
    """Every lora_B should differ from zero, its initial value. `model`: the directory."""
    weights = load_file(Path(model) / ADAPTER_FILE)
    trained = [bool(value.any()) for name, value in weights.items() if "lora_B" in name]
    share = float(np.mean(trained)) if trained else 0.0
    return SanityCheck(
        name="LoRA",
        passed=share == 1.0,
        value=share,
        requirement="all of them",
        finding=f"{share:.1%} of the adapter layers were trained: their lora_B is not zero",
        if_failed="Adapter layers were never updated, so that the backbone is still the pretrained one: gradients did "
        "not reach them, or an untrained directory was exported.",
    )
