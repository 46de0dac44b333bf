"""The LoRA on a policy's transformer: which layers, how it starts, how diffusers reads it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file
from torch import nn

from conf.flux import FluxSettings

WEIGHT_NAME = "pytorch_lora_weights.safetensors"


def match_targets(transformer: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the linear layers whose name, or the tail of it after a dot, matches one of the globs.

    The transformer's own final `proj_out` is never matched: it shares its name with the single blocks' and must not
    be adapted. Raises ValueError for a target that matches no layer.
    """
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    matched: set[str] = set()
    for target in targets:
        hits = {
            name for name in linears
            if name != "proj_out" and (fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}"))
        }  # fmt: skip
        if not hits:
            raise ValueError(f"flux.lora_targets: {target!r} matches no linear layer of the transformer")
        matched |= hits
    return [name for name in linears if name in matched]


def add_lora(transformer: Any, settings: FluxSettings, seed: int) -> None:
    """Adds one float32 LoRA: A ~ N(0, 1/rank) from `seed`, B = 0, so the policy starts as the base."""
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=match_targets(transformer, settings.lora_targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.float()
    fold_small_layers(transformer)


class FoldedLinear(LoraLinear):
    """peft's LoRA layer with the same function and one matmul: x (W + alpha/r B A)^T + bias.

    A small layer spends more on the LoRA's three thin operations than on W. Folding costs the gradient of a full
    weight in the backward pass, so large layers keep peft's own order of work.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] to [..., out]."""
        base = cast(nn.Linear, self.base_layer)
        if self.disable_adapters:
            return base(x)
        up, down = cast(torch.Tensor, self.lora_B["default"].weight), cast(torch.Tensor, self.lora_A["default"].weight)
        weight = torch.addmm(base.weight, up, down, alpha=self.scaling["default"])
        return nn.functional.linear(x, weight, base.bias)


def fold_small_layers(transformer: nn.Module) -> None:
    """Turns LoRA layers on small float32 weights into FoldedLinear: those with fewer than 6 r (in + out) weights."""
    for module in transformer.modules():
        if type(module) is LoraLinear:
            weight = cast(nn.Linear, module.base_layer).weight
            if weight.dtype == torch.float32 and weight.numel() <= 6 * module.r["default"] * sum(weight.shape):
                module.__class__ = FoldedLinear


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA parameters by name, in module order."""
    return {name: parameter for name, parameter in transformer.named_parameters() if "lora_" in name}


def save_lora(state: Mapping[str, torch.Tensor], settings: FluxSettings, directory: Path) -> Path:
    """Writes `pytorch_lora_weights.safetensors`, which load_lora_weights(directory) of a plain pipeline reads.

    alpha/rank is folded into B, so that a reader needs no metadata. All families have this form. Returns the file.
    """
    scale = settings.lora_alpha / settings.lora_rank
    folded: dict[str, nn.Module | torch.Tensor] = {
        key: (value * scale if "lora_B" in key else value.clone()).cpu() for key, value in state.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    partial = f"partial-{WEIGHT_NAME}"
    FluxPipeline.save_lora_weights(directory, transformer_lora_layers=folded, weight_name=partial)
    return (directory / partial).replace(directory / WEIGHT_NAME)


def read_lora(directory: Path, settings: FluxSettings) -> dict[str, torch.Tensor]:
    """What `save_lora` wrote, under the policy's own keys; the file has alpha / rank folded into B."""
    scale = settings.lora_alpha / settings.lora_rank
    weights = load_file(directory / WEIGHT_NAME)
    return {
        key.removeprefix("transformer."): value / scale if "lora_B" in key else value for key, value in weights.items()
    }
