"""Sanity checks of a SpatialScore's directory: were its weights trained, and are they saved completely?"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file

from actors.spatialscore import SpatialScorer, load
from actors.spatialscore.config import ADAPTER_FILE, HEAD_FILE
from pipelines.reward.data import Pair
from pipelines.reward.noise_floor import device_of, noise_floor
from pipelines.reward.sanity_report import SanityCheck

RELOAD_PAIRS = 4
_ADAPTER_CONFIG = "adapter_config.json"


def check_reload(scorer: SpatialScorer, model: str, pairs: Sequence[Pair]) -> SanityCheck:
    """The model in memory should have the saved weights, bit for bit, and score alike after saving and loading.

    `model`: its directory. Scores are compared on the scorer's own device, within the noise of its own arithmetic.
    The `value` is the largest difference of a score, or infinity if weights differ.
    """
    images = [pair.image_w for pair in pairs[:RELOAD_PAIRS]]
    prompts = [pair.prompt for pair in pairs[:RELOAD_PAIRS]]
    merged = not isinstance(scorer.model.backbone, PeftModel)
    with tempfile.TemporaryDirectory() as folder:
        # A scorer whose LoRA is merged in memory cannot write its adapter again.
        (load(model) if merged else scorer.model).save_pretrained(folder)
        changed = _changed_weights(Path(model), Path(folder), scorer)
        tolerance, mu = noise_floor(scorer, images, prompts).tolerance, scorer.score(images, prompts).mu
        with _away(scorer) as device:
            reloaded = SpatialScorer.from_pretrained(
                folder, device=device, batch_images=scorer.batch_images, merge=merged
            )
            difference = float(np.abs(reloaded.score(images, prompts).mu - mu).max())
            del reloaded
    return SanityCheck(
        name="save and load",
        passed=not changed and difference <= tolerance,
        value=float("inf") if changed else difference,
        requirement=f"equal weights, and a difference of at most {tolerance:.1g}, which batching causes too",
        finding=f"changed by saving and loading: {', '.join(changed[:3])}"
        if changed
        else f"weights are equal; largest difference of a score after saving and loading: {difference:.1g}",
        if_failed="The saved directory does not give the scores of the model in memory: weights are lost or changed on "
        "the way to disk. The reward pool would serve another model than the one that was measured.",
    )


@contextmanager
def _away(scorer: SpatialScorer) -> Generator[str]:
    """Moves the scorer's model from its device, which is yielded: one GPU does not hold two 32B models."""
    device = device_of(scorer)
    scorer.model.to("cpu")
    try:
        yield device
    finally:
        scorer.model.to(device)


def _changed_weights(saved: Path, again: Path, scorer: SpatialScorer) -> list[str]:
    """Names of trained weights that are not bit for bit equal in the directory, in its copy and in memory."""
    head = {name: value.cpu() for name, value in scorer.model.head.state_dict().items()}
    changed = _differing(load_file(saved / HEAD_FILE), head) + _differing(head, load_file(again / HEAD_FILE))
    return sorted({*changed, *_differing(load_file(saved / ADAPTER_FILE), load_file(again / ADAPTER_FILE))})


def _differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    missing = sorted(set(first) ^ set(second))
    shared = sorted(set(first) & set(second))
    return missing + [n for n in shared if first[n].dtype != second[n].dtype or not torch.equal(first[n], second[n])]


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


def check_reward_token(scorer: SpatialScorer, model: str) -> SanityCheck:
    """The one trained embedding row should be that of `<reward>`. `model`: the directory."""
    config: dict[str, Any] = json.loads((Path(model) / _ADAPTER_CONFIG).read_text())
    indices: dict[str, list[int]] = config.get("trainable_token_indices") or {}
    rows = sorted({row for value in indices.values() for row in value})
    return SanityCheck(
        name="token row",
        passed=rows == [scorer.model.reward_id],
        value=float(rows[0]) if rows else float("nan"),
        requirement=f"row {scorer.model.reward_id}, that of <reward>",
        finding=f"trained embedding rows: {', '.join(map(str, rows)) or 'none'}",
        if_failed="The embedding that was trained belongs to another token than <reward>, so the score is read from an "
        "untrained token: the tokenizer in the directory is not the one of the training. Copy the directory again.",
    )
