"""Whether the denoise steps after a noisy one can still remove its noise from the image."""

from __future__ import annotations

import torch

from actors.policy.plan import SamplingPlan
from actors.policy.transition import transition_of
from conf.errors import SettingsError

MAX_NOISE = 2.5
"""Std of the noise that a step may draw, in units of the noise level that the schedule has after the step.

The steps after it remove the level of the schedule; what exceeds it stays in the image. FLUX.1-dev draws at most 1.5 at
six steps and noise level 0.9. Qwen-Image's schedule ends with the levels 0.29, 0.02 and 0, so the last step but one
would draw 15.
"""


def check_noise(plan: SamplingPlan, sigmas: torch.Tensor) -> None:
    """Raises SettingsError if a step of `plan` draws more noise than the steps after it can remove.

    `sigmas` [T+1] are the noise levels of the denoise steps. A step to level 0, i.e. noise on the finished image, is
    not checked: no schedule allows it, and `policy.sampling.clean_steps=0` asks for it.
    """
    steps = [step for step in plan.noise_steps if sigmas[step + 1] > 0]
    if not steps:
        return
    s, s_next = sigmas[steps], sigmas[[step + 1 for step in steps]]  # [K]
    x = torch.zeros(len(steps), 1, 1)
    std = transition_of(plan.transition).step(x, x, s, s_next, plan.noise_level).std.flatten()  # [K]
    worst = int((std / s_next).argmax())
    if std[worst] > MAX_NOISE * s_next[worst]:
        raise SettingsError(
            f"a denoise step must draw noise of at most {MAX_NOISE} x the level that the model's schedule has after "
            f"it, got {float(std[worst]):.2g} at denoise step {steps[worst]} with level {float(s_next[worst]):.2g}: "
            f"the later steps cannot remove that. Set policy.sampling.clean_steps={plan.denoise_steps - steps[worst]} "
            "(a policy.sampling.window must still fit), or lower policy.sampling.noise_level"
        )
