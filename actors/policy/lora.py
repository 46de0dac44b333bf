"""The LoRA of a policy's transformer: its layers, its initial weights, and its file in diffusers format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from actors.folders import set_usual_permissions
from actors.policy.lora_header import WEIGHT_NAME
from actors.policy.lora_layer import BaseDtypeLinear
from conf.flux import FluxSettings
from conf.partial import partial_path


def match_targets(transformer: nn.Module, targets: Sequence[str]) -> list[str]:
    """Full names of the linear layers whose name, or its last dotted parts, match one of the glob patterns.

    The final `proj_out` of the transformer is never matched: it has the same name as a layer of the single blocks, but
    must not be adapted. Raises ValueError for a target that matches no layer.
    """
    linears = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    matched: set[str] = set()
    for target in targets:
        hits = {name for name in linears if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")}
        hits -= {"proj_out"}
        if not hits:
            raise ValueError(f"flux.lora_targets: {target!r} matches no linear layer of the transformer")
        matched |= hits
    return [name for name in linears if name in matched]


def add_lora(transformer: Any, settings: FluxSettings, seed: int) -> None:
    """Adds one float32 LoRA. A ~ N(0, 1/rank) is drawn from `seed`, and B = 0, so the policy starts as its base.

    On a base of another dtype the LoRA's products are computed in that dtype (actors/policy/lora_layer.py).
    """
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        init_lora_weights="gaussian",
        target_modules=match_targets(transformer, settings.lora_targets),
    )
    if transformer.dtype != torch.float32:
        # peft documents this method for custom layers, as an experimental one
        config._register_custom_module({nn.Linear: BaseDtypeLinear})  # pyright: ignore[reportPrivateUsage]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer.add_adapter(config)
    for parameter in lora_parameters(transformer).values():
        parameter.data = parameter.data.float()


def lora_parameters(transformer: nn.Module) -> dict[str, nn.Parameter]:
    """LoRA parameters by name, in module order."""
    return {name: parameter for name, parameter in transformer.named_parameters() if "lora_" in name}


def adapter_key(name: str) -> str:
    """A LoRA parameter's name in the transformer -> its key in diffusers' files, which leave out the adapter's name."""
    return name.replace(".default.", ".")


def save_lora(state: Mapping[str, torch.Tensor], settings: FluxSettings, directory: Path) -> Path:
    """Writes `pytorch_lora_weights.safetensors`, as `load_lora_weights(directory)` of a plain pipeline reads it.

    B is multiplied by alpha/rank, so the reader needs no metadata. All model families use this format. Returns the
    file's path.
    """
    scale = settings.lora_alpha / settings.lora_rank
    scaled: dict[str, nn.Module | torch.Tensor] = {
        key: (value * scale if "lora_B" in key else value.clone()).cpu() for key, value in state.items()
    }
    directory.mkdir(parents=True, exist_ok=True)
    partial = Path(partial_path(str(directory / WEIGHT_NAME)))
    try:
        FluxPipeline.save_lora_weights(directory, transformer_lora_layers=scaled, weight_name=partial.name)
        set_usual_permissions(partial)
        return partial.replace(directory / WEIGHT_NAME)
    finally:
        partial.unlink(missing_ok=True)


def read_lora(directory: Path, settings: FluxSettings) -> dict[str, torch.Tensor]:
    """Reads the file that `save_lora` wrote, with the policy's own keys; divides B by alpha/rank again."""
    scale = settings.lora_alpha / settings.lora_rank
    weights = load_file(directory / WEIGHT_NAME)
    return {
        key.removeprefix("transformer."): value / scale if "lora_B" in key else value for key, value in weights.items()
    }
