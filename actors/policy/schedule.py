"""FLUX's shifted noise schedule: the noise levels of the denoise steps."""

from __future__ import annotations

import copy

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler


def shifted_sigmas(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, image_tokens: int) -> torch.Tensor:
    """The T+1 noise levels that `FluxPipeline.__call__` uses, falling from 1 to 0.

    s = linspace(1, 1/T, T), then s <- e^mu / (e^mu + 1/s - 1), then 0 is appended. `mu` grows linearly with the number
    of image tokens S (`calculate_shift`). The constants come from the scheduler's configuration, so a model with
    another shift is sampled as it was trained. Does not change `scheduler`.

    Returns [T+1] float32. Raises ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    private = copy.deepcopy(scheduler)
    config = private.config
    mu = calculate_shift(
        image_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
    private.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps).tolist(), mu=mu)
    return torch.as_tensor(private.sigmas).clone()  # [T+1]
