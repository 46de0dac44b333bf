"""Which policy a model is: its own `model_index.json` says so."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from actors.policy.qwen_image import QwenImagePolicy
from conf.flux import FluxSettings

FAMILIES: tuple[type[Policy], ...] = (FluxPolicy, QwenImagePolicy)


def family_of(model: str) -> type[Policy]:
    """The family of a directory in diffusers format or a hub id. Raises ValueError for a pipeline of another class."""
    named = cast(dict[str, Any], DiffusionPipeline.load_config(model))["_class_name"]
    for family in FAMILIES:
        if family.pipeline_class.__name__ == named:
            return family
    known = ", ".join(family.pipeline_class.__name__ for family in FAMILIES)
    raise ValueError(f"flux.model={model} must hold one of {known}, got a {named}")


def load_policy(
    model: str,
    settings: FluxSettings,
    device: str | torch.device = "cpu",
    transformer_only: bool = False,
    seed: int = 0,
) -> Policy:
    """The policy of a directory in diffusers format or a hub id; see Policy.from_pretrained.

    Raises ValueError for a pipeline of another class.
    """
    return family_of(model).from_pretrained(model, settings, device, transformer_only, seed)
