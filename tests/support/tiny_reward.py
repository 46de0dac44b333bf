"""A Qwen2.5-VL of the shipped form with random weights, and a SpatialScore on it."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.spatialscore import SpatialScore, SpatialScoreConfig, build
from pipelines.pretrain.vlm_model import build_model, build_tokenizer, save


def save_tiny_vlm(path: Path) -> None:
    """Writes a transformers directory; random weights are enough for what tests claim with it."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    save(build_model(tokenizer), tokenizer, path)


def tiny_spatialscore(vlm_dir: Path) -> SpatialScore:
    """A SpatialScore whose LoRA, head and `<reward>` row are all away from their initial values."""
    torch.manual_seed(1)
    made = build(SpatialScoreConfig(model=str(vlm_dir), pixels=4096))
    with torch.no_grad():
        for parameter in made.trainable().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()
