"""Floating-point operations of a SpatialScore, for its model FLOPs utilization (MFU)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import torch

from actors.spatialscore.model import SpatialScore
from actors.spatialscore.processor import ScoreBatch

BACKWARD = 1.0
"""Cost of a backward pass, as a multiple of the forward pass: frozen weights need gradients of their inputs only."""


@dataclass(frozen=True)
class FlopsCounter:
    """The sizes from which the operations of a SpatialScore follow. Make it before its weights are sharded."""

    language: int  # weights that every token is multiplied with
    layers: int  # of the language model
    width: int  # hidden width of the language model
    tower: int  # weights of the vision tower that every patch is multiplied with
    merger: int  # weights that every image token is multiplied with
    patches_per_token: int

    @classmethod
    def of(cls, model: SpatialScore) -> FlopsCounter:
        """Counts the frozen weights of `model`. The LoRA is left out: its share is small."""
        backbone = model.vlm
        text, vision = backbone.config.get_text_config(), cast(Any, backbone.config.vision_config)
        return cls(
            language=_frozen_weights(backbone.language_model.layers),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            tower=_frozen_weights(backbone.visual.blocks),
            merger=_frozen_weights(backbone.visual.merger),
            patches_per_token=vision.spatial_merge_size**2,
        )

    def forward(self, batch: ScoreBatch) -> tuple[float, float]:
        """Operations of one forward pass: those of the vision tower, and those of the language model.

        Each weight counts 2 per token (or patch), and attention over L tokens counts 4 L D per token and layer.
        Padding counts too, because it is computed.
        """
        rows, length = batch.input_ids.shape
        patches = batch.pixel_values.shape[0]
        vision = 2.0 * patches * (self.tower + self.merger / self.patches_per_token)
        return vision, rows * length * (2.0 * self.language + 4.0 * self.layers * self.width * length)

    def training(self, batch: ScoreBatch) -> float:
        """Operations of one forward and backward pass. The frozen vision tower has no backward pass.

        Recomputed activations do not count, because MFU measures useful work.
        """
        vision, language = self.forward(batch)
        return vision + (1.0 + BACKWARD) * language


def measured_peak(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """Practical peak of the device in operations per second: the fastest large square matrix product.

    `size`: rows of the matrices on a CPU, an eighth of the rows on a GPU. `seconds`: how long to repeat the product.
    """
    size = size if device.type == "cpu" else 8 * size
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, spent = 0.0, 0.0
    while spent < seconds:
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        elapsed = time.perf_counter() - start
        best, spent = max(best, 2.0 * size**3 / elapsed), spent + elapsed
    return best


def _frozen_weights(module: torch.nn.Module) -> int:
    """Number of frozen weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad)
