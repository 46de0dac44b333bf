"""A LoRA layer that computes in the dtype of its base layer, for bases in bfloat16.

peft's own layer casts its input to the LoRA's float32, computes both products in float32, scales, adds, and casts back.
With FLUX.1-dev at 12 rows these casts move more bytes than the base's products. Flow-GRPO computes its LoRA in
bfloat16 too, under autocast. The trained weights stay float32: only their copies in the forward pass are rounded, and
their gradients are accumulated in float32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import nn


class BaseDtypeLinear(Linear):
    """y = base(x) + (alpha / rank) (x A^T) B^T, with A and B rounded to the dtype of x, and one fused addition."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Computes [..., in] -> [..., out] in the dtype of `x`; without the LoRA if adapters are disabled."""
        base = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return base
        (name,) = self.active_adapters
        down = cast(torch.Tensor, self.lora_A[name].weight)  # [rank, in]
        up = cast(torch.Tensor, self.lora_B[name].weight)  # [out, rank]
        hidden = nn.functional.linear(x, down.to(x.dtype))
        return torch.addmm(
            base.flatten(0, -2), hidden.flatten(0, -2), up.to(x.dtype).T, alpha=self.scaling[name]
        ).view_as(base)
