"""Qwen-Image as a policy: it samples what QwenImagePipeline samples, and replays to ratio 1."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner
from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.qwen_image import QwenImagePolicy
from actors.policy.registry import load_policy
from actors.policy.sampler import sample
from conf import load
from conf.errors import SettingsError
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings
from tests.support.learner import torch_engine
from tests.support.plain_pipeline import SEEDS, qwen_images, qwen_latents
from tests.support.tiny_flux import TEXTS, perturb_lora

GUIDED = load("qwen_image").flux.true_cfg


@pytest.mark.parametrize("true_cfg", [1.0, GUIDED])
def test_without_noise_it_equals_qwen_image_pipeline(
    qwen_image_directory: Path, qwen_image_flux: FluxSettings, true_cfg: float
) -> None:
    """Without guidance, and with the preset's."""
    policy = load_policy(str(qwen_image_directory), replace(qwen_image_flux, true_cfg=true_cfg))
    assert isinstance(policy, QwenImagePolicy)
    samples = sample(policy, policy.encode(TEXTS[:1]) * 2, SEEDS, SamplingPlan(denoise_steps=6))
    expected = qwen_latents(qwen_image_directory, TEXTS[0], true_cfg)
    torch.testing.assert_close(samples.latents, expected, atol=2e-5, rtol=0)
    images, plain = policy.decode(samples.latents), qwen_images(qwen_image_directory, TEXTS[0], true_cfg)
    np.testing.assert_allclose(images.astype(int), plain.astype(int), atol=1)


def test_it_counts_the_tokens_that_it_encodes(qwen_image: Policy, qwen_image_directory: Path) -> None:
    without_weights = QwenImagePolicy.load_without_weights(str(qwen_image_directory))
    lengths = [len(row.prompt_embeds) for row in qwen_image.encode(TEXTS)]
    assert [QwenImagePolicy.count_tokens(without_weights, text) for text in TEXTS] == lengths


def test_texts_of_different_lengths_share_a_batch(qwen_image: Policy) -> None:
    """The shorter text is padded and masked, as the negative prompt is: its image is the same as alone."""
    both = qwen_image.encode(TEXTS)
    assert len(both[0].prompt_embeds) != len(both[1].prompt_embeds)
    together = sample(qwen_image, both, SEEDS, SamplingPlan(denoise_steps=6)).latents
    for i in (0, 1):
        alone = sample(qwen_image, both[i : i + 1], SEEDS[i : i + 1], SamplingPlan(denoise_steps=6)).latents
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_the_learner_replays_it_to_ratio_one_and_trains(
    qwen_image: Policy, qwen_image_directory: Path, qwen_image_flux: FluxSettings
) -> None:
    settings = PolicySettings(
        prompts_per_iteration=1,
        group_size=4,
        optimizer=PolicyOptimizerSettings(steps_per_iteration=1),
        algorithm=AlgorithmSettings(top_k=2, kl_weight=0.01, advantage_std_over="group"),
        sampling=SamplingSettings(denoise_steps=4, window=2),
        learner=LearnerSettings(replay_batch=0),
    )
    trained = load_policy(str(qwen_image_directory), qwen_image_flux, transformer_only=True)
    assert trained.pipeline.vae is None and trained.pipeline.text_encoder is None
    learner = GrpoLearner(trained, torch_engine(trained, settings), settings)
    conditioning = qwen_image.encode(TEXTS[:1])[0]
    samples = sample(qwen_image, [conditioning] * 4, range(4), SamplingPlan.for_training(settings))
    advantages = group_advantages(np.arange(4.0), settings.algorithm)
    learner.accumulate(advantages, conditioning, [samples.trajectories[i] for i in advantages.kept])
    metrics = learner.optimizer_step()
    assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0)
    assert metrics.applied and metrics.rows == 8
    assert any(value.any() for key, value in learner.weights().lora.items() if "lora_B" in key)


def test_diffusers_loads_its_lora(qwen_image: Policy, qwen_image_directory: Path, tmp_path: Path) -> None:
    perturb_lora(qwen_image, 0.1)
    trained = sample(qwen_image, qwen_image.encode(TEXTS[:1]) * 2, SEEDS, SamplingPlan(denoise_steps=6)).latents
    save_lora(qwen_image.lora_state(), qwen_image.settings, tmp_path)
    loaded = qwen_latents(qwen_image_directory, TEXTS[0], GUIDED, tmp_path)
    torch.testing.assert_close(trained, loaded, atol=1e-5, rtol=0)
    assert (trained - qwen_latents(qwen_image_directory, TEXTS[0], GUIDED)).abs().max() > 0.01


def test_flux_has_no_classifier_free_guidance() -> None:
    with pytest.raises(SettingsError, match=r"flux\.true_cfg must be 1\.0 for a FluxPipeline, got 4\.0"):
        FluxPolicy.check_settings(FluxSettings(true_cfg=4.0), None)


def test_an_unknown_pipeline_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtSigmaPipeline"}))
    with pytest.raises(SettingsError, match=r"must hold one of FluxPipeline, QwenImagePipeline, .*got a PixArtSigma"):
        load_policy(str(tmp_path), FluxSettings())
