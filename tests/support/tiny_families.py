"""Tiny random models of all families with classifier-free guidance, for the checks that every one of them must pass.

A conftest imports the fixture `tiny` from here and a test parametrizes it, or takes every family.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.policy.base import Policy
from actors.policy.registry import load_policy
from conf import load
from conf.flux import FluxSettings
from tests.support.tiny_flux2_klein import random_flux2_klein_pipeline
from tests.support.tiny_sd3 import random_sd3_pipeline
from tests.support.tiny_z_image import random_z_image_pipeline

SEEDS = [5, 6]
STEPS = 6


@dataclass(frozen=True)
class TinyFamily:
    """A family: its tiny model's directory, and the settings of its preset for that model."""

    preset: str
    directory: Path
    flux: FluxSettings

    def policy(self, **changes: Any) -> Policy:
        """A fresh policy with an untrained LoRA, with some settings of `flux` changed."""
        return load_policy(str(self.directory), replace(self.flux, **changes))


FAMILIES: dict[str, Callable[[], Any]] = {
    "sd35_medium": random_sd3_pipeline,
    "z_image": random_z_image_pipeline,
    "flux2_klein": random_flux2_klein_pipeline,
}
"""Preset -> tiny pipeline."""


@pytest.fixture(scope="session", params=list(FAMILIES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyFamily:
    """Every family in turn. The tiny tokenizers have no token for a blank, so the negative prompt is a text."""
    directory = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param]().save_pretrained(directory)
    small = ("height=64", "width=64", "dtype=float32", "max_sequence_length=24", "checkpoint_every=0",
             "text_encoders_on_cpu=false", f"model={directory}")  # fmt: skip
    flux = load(request.param, [f"flux.{override}" for override in small]).flux
    if flux.negative_prompt != FluxSettings.negative_prompt:
        flux = replace(flux, negative_prompt="a red circle")
    return TinyFamily(request.param, directory, flux)


def plain_sample(
    family: TinyFamily, policy: Policy, text: str, lora: Path | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """What diffusers' own pipeline samples for SEEDS: packed latents [2, S, C] and images uint8 [2, 64, 64, 3].

    `policy` names the class and the arguments of the guidance.
    """
    pipeline: Any = policy.pipeline_class.from_pretrained(family.directory)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    last: list[torch.Tensor] = []

    def keep(_pipeline: Any, _step: int, _timestep: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        last[:] = [values["latents"]]
        return values

    images = pipeline(
        prompt=text,
        **policy.pipeline_kwargs(policy.settings),
        height=64,
        width=64,
        num_inference_steps=STEPS,
        max_sequence_length=policy.settings.max_sequence_length,
        num_images_per_prompt=len(SEEDS),
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        callback_on_step_end=keep,
    ).images
    latents = last[0] if last[0].ndim == 3 else policy.pack(last[0])
    return latents, np.stack([np.array(image) for image in images])
