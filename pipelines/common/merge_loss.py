"""What merging a LoRA loses: a small change of a weight is rounded to the steps of the weight's dtype.

A bfloat16 number has 8 significant bits. A change of 0.5 % of a weight is about one step, and many weights do not move.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from actors.dtypes import DTYPES
from conf import UserError
from conf.merge import MergeSettings
from conf.rules import Dtype
from pipelines.common.host_memory import GB, require_memory

MERGE_BYTES: Mapping[Dtype, int] = {"float32": 16, "bfloat16": 24}
"""What `merge_loss` takes for a while, in bytes of a parameter of the layer, by the layer's dtype. Measured."""


@dataclass(frozen=True)
class MergeLoss:
    """The rounding of all merged layers together."""

    dtype: str
    lost: float  # |rounded(W + D) - (W + D)| / |D|, D the trained change: 0 is exact, 1 is as large as the change
    unmoved: float  # share of the weights with a trained change that rounding sets back to W

    def __str__(self) -> str:
        return (
            f"merged in {self.dtype}: rounding changes the weights by {self.lost:.2g} of what training changed, and "
            f"{self.unmoved:.1%} of them do not move"
        )


@torch.no_grad()
def merge_loss(model: nn.Module, dtype: str) -> MergeLoss:
    """Measures the merge of all LoRA layers of `model` into weights of `dtype`, layer by layer in float32.

    The model is left unchanged. Raises ValueError if it has no LoRA layer.
    """
    error, change, unmoved, changed, layers = 0.0, 0.0, 0, 0, 0
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        layers += 1
        weight = cast(torch.Tensor, cast(Any, module.get_base_layer()).weight).float()
        delta = torch.zeros_like(weight)
        for name in module.active_adapters:
            delta += cast(Any, module).get_delta_weight(name).float()
        merged = weight + delta
        rounded = merged.to(DTYPES[dtype])
        moves = delta != 0
        unmoved += int((moves & (rounded == weight.to(DTYPES[dtype]))).sum())
        changed += int(moves.sum())
        change += _square(delta)
        error += _square(merged.sub_(rounded))
    if not layers:
        raise ValueError("the model has no LoRA layer to merge")
    return MergeLoss(dtype, (error / change) ** 0.5 if change else 0.0, unmoved / changed if changed else 0.0)


def _square(values: torch.Tensor) -> float:
    """The sum of the squares, added up in float64 without a copy."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def require_merge_memory(model: str, need: Callable[[Dtype], int], dtype: Dtype) -> None:
    """Raises UserError if this machine has too little memory to merge a LoRA into `model` in `dtype`.

    `need`: bytes that the merge takes in a dtype.
    """
    smaller, fix = need("bfloat16"), "use the LoRA without merging it"
    if smaller < need(dtype):
        fix = f"set merge.dtype=bfloat16 ({smaller / GB:.1f} GB), or {fix}"
    require_memory(f"merging the LoRA into {model}", need(dtype), fix)


def require_small_loss(loss: MergeLoss, settings: MergeSettings) -> None:
    """Raises UserError if rounding loses more of the trained change than `merge.max_loss`."""
    if loss.lost > settings.max_loss:
        raise UserError(
            f"{loss}: more than merge.max_loss={settings.max_loss:g}. Set merge.dtype=float32, or use the LoRA without "
            "merging it, which loses nothing"
        )
