"""The noise levels of the denoise steps, as the plain pipelines compute them.

Each function returns [T+1] float32, falling from 1 to 0, leaves `scheduler` as it is, and raises ValueError for fewer
than one step. The constants come from the scheduler's configuration, so a model with another shift is sampled as it was
trained.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler


def shifted_sigmas(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, image_tokens: int, mu: float | None = None
) -> torch.Tensor:
    """The levels of FluxPipeline: s = linspace(1, 1/T, T), shifted, then 0.

    With dynamic shifting s <- e^mu / (e^mu + 1/s - 1). `mu` grows linearly with the number of image tokens S unless it
    is given. A scheduler with a fixed `shift` ignores it: s <- shift s / (1 + (shift - 1) s).
    """
    shift = linear_mu(scheduler, image_tokens) if mu is None else mu
    return _levels(scheduler, steps, sigmas=np.linspace(1.0, 1 / max(steps, 1), steps).tolist(), mu=shift)


def scheduler_sigmas(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, image_tokens: int, max_shift: float = 1.16
) -> torch.Tensor:
    """The levels of StableDiffusion3Pipeline, which leaves them to the scheduler.

    linspace(1, s_min, T), shifted, then 0. s_min is the scheduler's last training level, so the last level above 0 is
    near 0 for each T. `max_shift` is the pipeline's default for dynamic shifting.
    """
    dynamic = scheduler.config.get("use_dynamic_shifting")
    mu = {"mu": linear_mu(scheduler, image_tokens, max_shift)} if dynamic else {}
    return _levels(scheduler, steps, num_inference_steps=steps, **mu)


def linear_mu(scheduler: FlowMatchEulerDiscreteScheduler, image_tokens: int, max_shift: float = 1.15) -> float:
    """The shift of FluxPipeline for S image tokens (`calculate_shift`)."""
    config = scheduler.config
    return calculate_shift(
        image_tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", max_shift),
    )


def _levels(scheduler: FlowMatchEulerDiscreteScheduler, steps: int, **arguments: Any) -> torch.Tensor:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    private = copy.deepcopy(scheduler)
    private.set_timesteps(**arguments)
    return torch.as_tensor(private.sigmas).clone()  # [T+1]
