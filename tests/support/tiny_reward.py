"""A Qwen2.5-VL of the shipped architecture with random weights, a SpatialScore on it, and decoded pairs."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.spatialscore import SpatialScore, SpatialScoreConfig, build
from conf.rules import Dtype
from pipelines.preferences.roles.base import ImagePair
from pipelines.pretrain.vlm_model import build_model, build_tokenizer, save
from pipelines.reward.data import Pair

PROMPTS = (
    "a red circle left of a blue square",
    "a red circle left of a blue square and above a green triangle",
    "a black square below a yellow circle that is right of a green triangle",
)
"""Prompts of three lengths."""


def save_tiny_vlm(path: Path) -> None:
    """Writes a transformers directory. Random weights are enough for what the tests check with it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    save(build_model(tokenizer), tokenizer, path)


def tiny_spatialscore(
    vlm_dir: Path, dtype: Dtype = "float32", *, lora_dropout: float = 0.0, gradient_checkpointing: bool = False
) -> SpatialScore:
    """A SpatialScore whose LoRA, head and `<reward>` row all differ from their initial values."""
    torch.manual_seed(1)
    config = SpatialScoreConfig(model=str(vlm_dir), pixels=4096, dtype=dtype, lora_dropout=lora_dropout)
    model = build(config, gradient_checkpointing=gradient_checkpointing)
    perturb_spatialscore(model, 0.05)
    return model.eval()


def perturb_spatialscore(model: SpatialScore, scale: float) -> None:
    """Adds Gaussian noise to the LoRA, the head and the `<reward>` row in place, as training would change them."""
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(scale * torch.randn_like(parameter))


def decoded(pair: ImagePair) -> Pair:
    """A pair of stage 1 as stage 2 reads it from a dataset. Its id is the number of its row."""
    prompts = pair.prompts
    return Pair(
        pair_id=str(prompts.spec.index),
        prompt=prompts.prompt.text,
        perturbed_prompt=prompts.perturbed.text if prompts.perturbed else None,
        image_w=pair.winner.pixels(),
        image_l=pair.loser.pixels(),
        kind=prompts.spec.kind,
        n_perturb=len(prompts.edits) if prompts.perturbed else 0,
        group_id=prompts.group_id,
    )
