"""What the settings change in a diffusers pipeline before its first image, in the order that diffusers needs."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig

from conf import UserError
from conf.generators import Attention, DiffusersSettings

_BACKENDS: dict[Attention, str] = {
    "native": "native",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash_3": "_flash_3",
    "sage": "sage",
    "xformers": "xformers",
}
"""Names of diffusers."""


def apply_options(pipeline: Any, settings: DiffusersSettings, device: torch.device) -> None:
    """Applies everything that `settings` says about the pipeline, and places it on `device`.

    With offload=text a TextStage places it.

    Raises UserError if the LoRA cannot be loaded or the implementation of attention is not installed.
    """
    if settings.shift:
        _set_shift(pipeline, settings.shift)
    if settings.lora:
        _merge_lora(pipeline, settings)
    if settings.quantisation == "fp8":
        # After the LoRA, which needs the full weights. Layers that are sensitive to rounding keep their precision.
        pipeline.transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=pipeline.transformer.dtype)
    if settings.attention != "default":
        _set_attention(pipeline, settings)
    if settings.vae_tiling:
        pipeline.vae.enable_tiling()
    if settings.cache == "first_block":
        pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=settings.cache_threshold))
    _place(pipeline, settings, device)
    if settings.compile:
        pipeline.transformer.compile_repeated_blocks()


def _set_shift(pipeline: Any, shift: float) -> None:
    """Sets one shift for all sizes: sigma' = shift sigma / (1 + (shift - 1) sigma), which ends at sigma' = 0.

    A scheduler with a shift by the size of the image takes its logarithm, see
    `FlowMatchEulerDiscreteScheduler.time_shift`.
    """
    scheduler = pipeline.scheduler
    if scheduler.config.use_dynamic_shifting:
        changes = {
            "base_shift": math.log(shift),
            "max_shift": math.log(shift),
            "shift_terminal": None,
            "time_shift_type": "exponential",
        }
    else:
        changes = {"shift": shift}
    pipeline.scheduler = type(scheduler).from_config(scheduler.config, **changes)


def _merge_lora(pipeline: Any, settings: DiffusersSettings) -> None:
    """Adds the LoRA to the weights of the transformer, so that it costs nothing while images are generated."""
    file = {"weight_name": settings.lora_file} if settings.lora_file else {}
    try:
        pipeline.load_lora_weights(settings.lora, **file)
        pipeline.fuse_lora(components=["transformer"], lora_scale=settings.lora_scale)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{settings.key('lora')} must be a LoRA of this model, got {settings.lora} {settings.lora_file}: {error}"
        ) from error
    pipeline.unload_lora_weights()


def _set_attention(pipeline: Any, settings: DiffusersSettings) -> None:
    try:
        pipeline.transformer.set_attention_backend(_BACKENDS[settings.attention])
    except (RuntimeError, ImportError, ValueError) as error:
        raise UserError(
            f"{settings.key('attention')}={settings.attention} cannot be used: {error}: install its package, or set "
            f"{settings.key('attention')}=default"
        ) from error


def _place(pipeline: Any, settings: DiffusersSettings, device: torch.device) -> None:
    if settings.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif settings.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif settings.offload == "none":
        pipeline.to(device)
