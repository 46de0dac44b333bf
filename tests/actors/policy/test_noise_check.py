"""Plans whose noise stays in the image are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from actors.policy.noise_check import check_noise
from actors.policy.plan import SamplingPlan
from actors.policy.schedule import shifted_sigmas
from conf import SettingsError, load
from tests.support.tiny_qwen_image import qwen_image_scheduler

FLUX_DEV = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
NOISE_ON_FIVE_OF_SIX = SamplingPlan(denoise_steps=6, noise_level=0.9, noise_steps=(0, 1, 2, 3, 4))


def test_six_steps_of_flux_dev_pass_and_those_of_qwen_image_do_not() -> None:
    """By hand, at the last noisy step: std 0.40 at level 0.27 (FLUX.1-dev), std 0.30 at level 0.02 (Qwen-Image)."""
    check_noise(NOISE_ON_FIVE_OF_SIX, shifted_sigmas(FLUX_DEV, 6, 1024))
    levels = shifted_sigmas(qwen_image_scheduler(), 6, 1024)
    with pytest.raises(SettingsError, match=r"got 0\.3 at denoise step 4 with level 0\.02.*clean_steps=2"):
        check_noise(NOISE_ON_FIVE_OF_SIX, levels)
    check_noise(replace(NOISE_ON_FIVE_OF_SIX, noise_steps=(0, 1, 2, 3)), levels)  # the fix
    check_noise(replace(NOISE_ON_FIVE_OF_SIX, transition="cps"), levels)  # CPS never draws more than the level


def test_noise_on_the_image_itself_is_allowed_but_not_before_a_step_that_cannot_remove_it() -> None:
    everywhere = replace(NOISE_ON_FIVE_OF_SIX, noise_steps=(0, 1, 2, 3, 4, 5))
    check_noise(everywhere, shifted_sigmas(FLUX_DEV, 6, 1024))
    with pytest.raises(SettingsError, match="denoise step 4"):
        check_noise(everywhere, shifted_sigmas(qwen_image_scheduler(), 6, 1024))


@pytest.mark.parametrize("preset", ["flux_dev", "flux_dev_1gpu", "flux_dev_no_filter", "qwen_image"])
def test_all_plans_of_a_preset_pass(preset: str) -> None:
    settings = load(preset)
    scheduler = qwen_image_scheduler() if preset == "qwen_image" else FLUX_DEV
    levels = shifted_sigmas(scheduler, settings.policy.sampling.denoise_steps, settings.flux.height**2 // 256)
    for plan in {SamplingPlan.for_training(settings.policy, iteration) for iteration in range(100)}:
        check_noise(plan, levels)
