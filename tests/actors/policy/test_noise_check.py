"""Plans whose noise stays in the image are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from actors.policy.flux2_klein import Flux2KleinPolicy
from actors.policy.noise_check import check_noise
from actors.policy.plan import SamplingPlan
from actors.policy.qwen_image import QwenImagePolicy
from actors.policy.schedule import shifted_sigmas
from actors.policy.sd3 import Sd3Policy
from actors.policy.z_image import ZImagePolicy
from conf import SettingsError, load
from tests.support.tiny_flux2_klein import flux2_klein_scheduler
from tests.support.tiny_qwen_image import qwen_image_scheduler
from tests.support.tiny_sd3 import sd3_scheduler
from tests.support.tiny_z_image import z_image_scheduler

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


@pytest.mark.parametrize(
    ("preset", "family", "scheduler"),
    [
        ("flux_dev", FluxPolicy, FLUX_DEV),
        ("flux_dev_1gpu", FluxPolicy, FLUX_DEV),
        ("flux_dev_no_filter", FluxPolicy, FLUX_DEV),
        ("qwen_image", QwenImagePolicy, qwen_image_scheduler()),
        ("sd35_medium", Sd3Policy, sd3_scheduler()),
        ("z_image", ZImagePolicy, z_image_scheduler()),
        ("flux2_klein", Flux2KleinPolicy, flux2_klein_scheduler()),
    ],
)
def test_all_plans_of_a_preset_pass(
    preset: str, family: type[Policy], scheduler: FlowMatchEulerDiscreteScheduler
) -> None:
    """With the published schedules."""
    settings = load(preset)
    sampling = settings.policy.sampling
    levels = family.noise_levels(scheduler, sampling.denoise_steps, settings.flux.height**2 // 256)
    for plan in {SamplingPlan.for_training(settings.policy, iteration) for iteration in range(100)}:
        check_noise(plan, levels)


def test_the_schedule_of_stable_diffusion_3_leaves_no_room_for_noise_at_its_end() -> None:
    """By hand, ten steps: the levels end with 0.28, 0.009 and 0, so a step to 0.009 draws 25 times too much."""
    levels = Sd3Policy.noise_levels(sd3_scheduler(), 10, 1024)
    assert levels[-3:].tolist() == pytest.approx([0.2778, 0.0089, 0.0], abs=5e-4)
    settings = load("sd35_medium", ["policy.sampling.clean_steps=1"])
    with pytest.raises(SettingsError, match=r"denoise step 8 with level 0\.0089.*clean_steps=2"):
        check_noise(SamplingPlan.for_training(settings.policy), levels)
