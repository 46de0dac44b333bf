"""The policy class of a model, from the pipeline class in its `model_index.json`."""

from __future__ import annotations

from typing import Any, cast

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from actors.policy.flux2_klein import Flux2KleinPolicy
from actors.policy.qwen_image import QwenImagePolicy
from actors.policy.sd3 import Sd3Policy
from actors.policy.z_image import ZImagePolicy
from conf.errors import SettingsError
from conf.flux import FluxSettings

FAMILIES: tuple[type[Policy], ...] = (FluxPolicy, QwenImagePolicy, Sd3Policy, ZImagePolicy, Flux2KleinPolicy)


def family_of(model: str) -> type[Policy]:
    """The policy class of a directory in diffusers format or a hub id.

    Raises SettingsError if it holds a pipeline of an unknown class.
    """
    name = cast(dict[str, Any], DiffusionPipeline.load_config(model))["_class_name"]
    for family in FAMILIES:
        if family.pipeline_class.__name__ == name:
            return family
    known = ", ".join(family.pipeline_class.__name__ for family in FAMILIES)
    raise SettingsError(f"flux.model={model} must hold one of {known}, got a {name}")


def load_policy(
    model: str,
    settings: FluxSettings,
    device: str | torch.device = "cpu",
    transformer_only: bool = False,
    seed: int = 0,
) -> Policy:
    """Loads the policy of a directory in diffusers format or a hub id; see Policy.from_pretrained.

    Raises SettingsError if it holds a pipeline of an unknown class.
    """
    return family_of(model).from_pretrained(model, settings, device, transformer_only, seed)
