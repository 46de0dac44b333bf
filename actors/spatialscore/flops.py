"""How much arithmetic a SpatialScore needs, for the share of a device that it uses (MFU)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, cast

import torch

from actors.spatialscore.model import SpatialScore
from actors.spatialscore.processor import ScoreBatch

BACKWARD = 1.0  # of the forward pass: frozen weights need no gradient of their own, only their inputs do


@dataclass(frozen=True)
class FlopsCounter:
    """The sizes that a SpatialScore's arithmetic follows from. Count them before its weights are sharded."""

    language: int  # weights that every token is multiplied with
    layers: int
    width: int
    tower: int  # weights that every patch is multiplied with
    merger: int  # weights that every image token is multiplied with
    patches_per_token: int

    @classmethod
    def of(cls, model: SpatialScore) -> FlopsCounter:
        """Counts frozen weights: what a LoRA adds is left out."""
        backbone = model.vlm
        text, vision = backbone.config.get_text_config(), cast(Any, backbone.config.vision_config)
        return cls(
            _weights(backbone.language_model.layers), text.num_hidden_layers, text.hidden_size,
            _weights(backbone.visual.blocks), _weights(backbone.visual.merger), vision.spatial_merge_size**2,
        )  # fmt: skip

    def forward(self, batch: ScoreBatch) -> tuple[float, float]:
        """Floating-point operations of one forward pass: the vision tower's, and the language model's.

        Two for each weight and token (patch), and 4 L D for a token's attention over L tokens in each layer. Padding
        counts, as it is computed.
        """
        rows, length = batch.input_ids.shape
        patches = batch.pixel_values.shape[0]
        vision = 2.0 * patches * (self.tower + self.merger / self.patches_per_token)
        return vision, rows * length * (2.0 * self.language + 4.0 * self.layers * self.width * length)

    def training(self, batch: ScoreBatch) -> float:
        """Of a forward and a backward pass through the language model; the frozen vision tower has no backward pass.

        Recomputing activations does not count: MFU is about useful work.
        """
        vision, language = self.forward(batch)
        return vision + (1.0 + BACKWARD) * language


def measured_peak(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """Floating-point operations a second of this process in a large square matrix product, its practical peak."""
    size = size if device.type == "cpu" else 8 * size
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, spent = 0.0, 0.0
    while spent < seconds:
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        taken = time.perf_counter() - start
        best, spent = max(best, 2.0 * size**3 / taken), spent + taken
    return best


def _weights(module: torch.nn.Module) -> int:
    """Frozen weights of a module: what a token is multiplied with."""
    return sum(p.numel() for p in module.parameters() if not p.requires_grad)
