"""FLUX at the width of FLUX.1-dev and a small depth: its sampler, its LoRA and the on-policy gate, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner
from actors.policy.flux import FluxPolicy
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from conf import load
from conf.flux import FluxSettings
from tests.support.full_width_flux import full_width_pipeline
from tests.support.learner import torch_engine
from tests.support.tiny_flux import perturb_lora

pytestmark = pytest.mark.slow
TEXT, SEEDS = "a red circle left of a blue square", (5, 6)
FLUX = load("flux_dev").flux
"""Of the preset: LoRA rank and targets, guidance, checkpointing of all blocks."""


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """These models are large enough for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def settings_of(dtype: str, size: int, compiled: bool = False) -> FluxSettings:
    return replace(FLUX, dtype=dtype, compile=compiled, height=size, width=size, max_sequence_length=32)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_noise_it_equals_flux_pipeline(dtype: torch.dtype) -> None:
    """Bit for bit in float32. In bfloat16 ours keeps the latents in float32 between the denoise steps."""
    pipeline = full_width_pipeline(dtype, double_blocks=1, single_blocks=1)
    expected = pipeline(
        [TEXT] * 2,
        height=256,
        width=256,
        num_inference_steps=2,
        max_sequence_length=32,
        guidance_scale=FLUX.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="latent",
    ).images
    policy = FluxPolicy(pipeline, settings_of("float32" if dtype == torch.float32 else "bfloat16", 256))
    actual = sample(policy, policy.encode([TEXT]) * 2, SEEDS, SamplingPlan(denoise_steps=2)).latents
    if dtype == torch.float32:
        assert torch.equal(actual, expected)
    else:
        assert (actual - expected.float()).square().mean().sqrt() < 0.01 * actual.square().mean().sqrt()


def drift_of(pipeline: FluxPipeline, size: int, compiled: bool) -> tuple[float, float]:
    """Samples a group with a trained LoRA and learns it. Returns the gate's |ratio - 1| and the gradient's norm."""
    preset = load("flux_dev").policy
    settings = replace(
        preset,
        group_size=2,
        prompts_per_iteration=1,
        sampling=replace(preset.sampling, denoise_steps=3, batch=2),
        algorithm=replace(preset.algorithm, top_k=1, ratio_tolerance=1.0),
        learner=replace(preset.learner, ranks=1, engine="torch", replay_batch=2),
        optimizer=replace(preset.optimizer, steps_per_iteration=1),
    )
    policy = FluxPolicy(pipeline, settings_of("bfloat16", size, compiled))
    perturb_lora(policy, 0.01)
    (conditioning,) = policy.encode([TEXT])
    samples = sample(policy, [conditioning] * 2, range(2), SamplingPlan.for_training(settings))
    advantages = group_advantages(np.arange(2, dtype=np.float32), settings.algorithm)
    learner = GrpoLearner(policy, torch_engine(policy, settings), settings)
    learner.accumulate(advantages, conditioning, [samples.trajectories[i] for i in advantages.kept])
    metrics = learner.optimizer_step()
    return metrics.ratio_drift, metrics.grad_norm


@pytest.mark.parametrize(
    ("compiled", "size", "double_blocks", "single_blocks"), [(False, 256, 1, 1), (False, 64, 2, 4), (True, 128, 1, 1)]
)
def test_a_bfloat16_learner_reproduces_the_sampler_exactly(
    compiled: bool, size: int, double_blocks: int, single_blocks: int
) -> None:
    """Eager and compiled, with the LoRA in bfloat16 and every block checkpointed."""
    drift, norm = drift_of(full_width_pipeline(torch.bfloat16, double_blocks, single_blocks), size, compiled)
    assert drift == 0.0 and norm > 0
