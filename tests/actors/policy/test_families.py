"""What every model with classifier-free guidance must pass: it samples what its own pipeline does, and trains on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.registry import load_policy
from actors.policy.sampler import sample
from conf.errors import SettingsError
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings
from tests.support.learner import torch_engine
from tests.support.tiny_families import SEEDS, STEPS, TinyFamily, plain_sample
from tests.support.tiny_flux import TEXTS, perturb_lora
from tests.support.tiny_flux2_klein import random_flux2_klein_pipeline

WITHOUT_NOISE = SamplingPlan(denoise_steps=STEPS)


@pytest.mark.parametrize("guided", [False, True])
def test_without_noise_it_equals_its_own_pipeline(tiny: TinyFamily, guided: bool) -> None:
    """Without guidance, and with the preset's: latents and images."""
    policy = tiny.policy() if guided else tiny.policy(true_cfg=1.0)
    assert (policy.settings.true_cfg > 1) == guided
    samples = sample(policy, policy.encode(TEXTS[:1]) * 2, SEEDS, WITHOUT_NOISE)
    latents, images = plain_sample(tiny, policy, TEXTS[0])
    torch.testing.assert_close(samples.latents, latents, atol=2e-5, rtol=0)
    np.testing.assert_allclose(policy.decode(samples.latents).astype(int), images.astype(int), atol=1)
    assert images.std() > 1, "the images must not be flat"


def test_its_text_matters(tiny: TinyFamily) -> None:
    policy = tiny.policy()
    both = sample(policy, policy.encode(TEXTS), [5, 5], WITHOUT_NOISE).latents
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_the_other_images_of_a_batch_do_not_matter(tiny: TinyFamily) -> None:
    policy = tiny.policy()
    both = policy.encode(TEXTS)
    together = sample(policy, both, SEEDS, WITHOUT_NOISE).latents
    for i in (0, 1):
        alone = sample(policy, both[i : i + 1], SEEDS[i : i + 1], WITHOUT_NOISE).latents
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_it_counts_the_tokens_of_a_text(tiny: TinyFamily) -> None:
    """The longer text has as many more as it has more words. The limit is not passed without a word."""
    policy = tiny.policy()
    without_weights = policy.load_without_weights(str(tiny.directory))
    short, long = (policy.count_tokens(without_weights, text) for text in TEXTS)
    assert long - short == len(TEXTS[1].split()) - len(TEXTS[0].split())
    (row,) = policy.encode(TEXTS[:1])
    assert len(row.prompt_embeds) >= short


@pytest.mark.parametrize(("checkpoint_every", "dtype"), [(0, "float32"), (1, "bfloat16")])
def test_the_learner_replays_it_to_ratio_one_and_trains(tiny: TinyFamily, checkpoint_every: int, dtype: str) -> None:
    """One policy samples and learns, as a policy worker does, and a learner that loads the transformer only agrees."""
    settings = PolicySettings(
        prompts_per_iteration=1,
        group_size=4,
        optimizer=PolicyOptimizerSettings(steps_per_iteration=1),
        algorithm=AlgorithmSettings(top_k=2, kl_weight=0.01, advantage_std_over="group", ratio_tolerance=0.0),
        sampling=SamplingSettings(denoise_steps=4, window=2),
        learner=LearnerSettings(replay_batch=0),
    )
    policy = tiny.policy(checkpoint_every=checkpoint_every, dtype=dtype)
    conditioning = policy.encode(TEXTS[:1])[0]
    samples = sample(policy, [conditioning] * 4, range(4), SamplingPlan.for_training(settings))
    assert policy.decode(samples.latents).std() > 1
    advantages = group_advantages(np.arange(4.0), settings.algorithm)
    alone = load_policy(str(tiny.directory), policy.settings, transformer_only=True)
    assert alone.pipeline.vae is None and alone.pipeline.text_encoder is None
    loras = []
    for trained in (policy, alone):
        learner = GrpoLearner(trained, torch_engine(trained, settings), settings)
        learner.accumulate(advantages, conditioning, [samples.trajectories[i] for i in advantages.kept])
        metrics = learner.optimizer_step()
        assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0)
        assert metrics.applied and metrics.rows == 8
        loras.append(learner.weights().lora)
    idle = [key for key, value in loras[0].items() if "lora_B" in key and not value.any()]
    assert [key for key in idle if "add_q_proj" not in key] == [], "SD3's last block makes a query that nothing reads"
    assert all(np.array_equal(loras[0][key], loras[1][key]) for key in loras[0])


def test_diffusers_loads_its_lora(tiny: TinyFamily, tmp_path: Path) -> None:
    policy = tiny.policy()
    perturb_lora(policy, 0.1)
    trained = sample(policy, policy.encode(TEXTS[:1]) * 2, SEEDS, WITHOUT_NOISE).latents
    save_lora(policy.lora_state(), policy.settings, tmp_path)
    torch.testing.assert_close(trained, plain_sample(tiny, policy, TEXTS[0], tmp_path)[0], atol=1e-4, rtol=0)
    assert (trained - plain_sample(tiny, policy, TEXTS[0])[0]).abs().max() > 0.01


def test_it_refuses_the_settings_that_it_lacks(tiny: TinyFamily) -> None:
    with pytest.raises(SettingsError, match=r"flux\.guidance must be 3\.5 for a \w+, got 7\.0: its guidance is flux"):
        tiny.policy(guidance=7.0)


def test_the_norm_of_guided_z_image_is_bounded_and_its_guidance_ends(tiny: TinyFamily) -> None:
    """Options of its pipeline, each of which changes the images. The tiny model's schedule passes 1 - s = 0.3."""
    if tiny.preset != "z_image":
        with pytest.raises(SettingsError, match=r"flux\.cfg_truncation must be 1\.0"):
            tiny.policy(cfg_truncation=0.3)
        return
    for changes in ({"cfg_norm_limit": 0.9}, {"cfg_truncation": 0.3}):
        policy = tiny.policy(**changes)
        latents = sample(policy, policy.encode(TEXTS[:1]) * 2, SEEDS, WITHOUT_NOISE).latents
        torch.testing.assert_close(latents, plain_sample(tiny, policy, TEXTS[0])[0], atol=2e-5, rtol=0)
        assert (latents - plain_sample(tiny, tiny.policy(), TEXTS[0])[0]).abs().max() > 0.01


def test_a_distilled_flux2_klein_has_no_guidance(tmp_path: Path) -> None:
    random_flux2_klein_pipeline(is_distilled=True).save_pretrained(tmp_path)
    flux = FluxSettings(max_sequence_length=24, lora_targets=("attn.to_q",))
    with pytest.raises(SettingsError, match=r"flux\.true_cfg must be 1 for a distilled FLUX\.2-klein, got 4\.0"):
        load_policy(str(tmp_path), replace(flux, true_cfg=4.0))
    policy = load_policy(str(tmp_path), flux)
    family = TinyFamily("flux2_klein", tmp_path, flux)
    samples = sample(policy, policy.encode(TEXTS[:1]) * 2, SEEDS, WITHOUT_NOISE)
    torch.testing.assert_close(samples.latents, plain_sample(family, policy, TEXTS[0])[0], atol=2e-5, rtol=0)
