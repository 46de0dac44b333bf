"""Qwen-Image behind the policy's interface: it draws what QwenImagePipeline draws, and replays to ratio 1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline

from actors.grpo.advantages import group_advantages
from actors.grpo.learner import GrpoLearner
from actors.optim.torch_engine import OptimizerSettings, TorchEngine
from actors.policy.base import Policy
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.qwen_image import QwenImagePolicy
from actors.policy.registry import load_policy
from actors.policy.sampler import sample
from conf.flux import FluxSettings
from conf.policy import AlgorithmSettings, LearnerSettings, PolicyOptimizerSettings, PolicySettings, SamplingSettings

TEXTS = ["a red circle left of a blue square", "a green triangle above a red square and left of a blue circle"]
SEEDS = [5, 6]


def plain_pipeline(directory: Path, text: str, output: str, lora: Path | None = None) -> np.ndarray | torch.Tensor:
    """What diffusers itself draws."""
    pipeline = QwenImagePipeline.from_pretrained(directory)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    images = pipeline(
        prompt=[text] * 2, height=64, width=64, num_inference_steps=6, true_cfg_scale=1.0, max_sequence_length=24,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS], output_type=output,
    ).images  # fmt: skip
    return images if output == "latent" else np.stack([np.array(image) for image in images])


def test_without_noise_it_is_qwen_image_pipeline(qwen_image: Policy, qwen_image_directory: Path) -> None:
    assert isinstance(qwen_image, QwenImagePolicy)
    drawn = sample(qwen_image, qwen_image.encode(TEXTS[:1]) * 2, SEEDS, SamplingPlan(denoise_steps=6))
    expected = plain_pipeline(qwen_image_directory, TEXTS[0], "latent")
    torch.testing.assert_close(drawn.latents, expected, atol=1e-5, rtol=0)
    pixels, plain = qwen_image.decode(drawn.latents), plain_pipeline(qwen_image_directory, TEXTS[0], "pil")
    np.testing.assert_allclose(pixels.astype(int), np.asarray(plain).astype(int), atol=1)


def test_texts_of_different_lengths_share_a_batch(qwen_image: Policy) -> None:
    """The shorter one is padded and masked: it is drawn as it is alone."""
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
        algorithm=AlgorithmSettings(top_k=2, kl_weight=0.01),
        sampling=SamplingSettings(denoise_steps=4, window=2),
        learner=LearnerSettings(replay_batch=0),
    )
    learning = load_policy(str(qwen_image_directory), qwen_image_flux, transformer_only=True)
    assert learning.pipeline.vae is None and learning.pipeline.text_encoder is None
    constants = OptimizerSettings(
        settings.optimizer.betas, settings.optimizer.weight_decay, settings.optimizer.max_grad_norm
    )
    learner = GrpoLearner(learning, TorchEngine(list(learning.trainable().values()), constants), settings)
    conditioning = qwen_image.encode(TEXTS[:1])[0]
    drawn = sample(qwen_image, [conditioning] * 4, range(4), SamplingPlan.for_training(settings))
    advantages = group_advantages(np.arange(4.0), 2, "selected", 5.0)
    learner.accumulate(advantages, conditioning, [drawn.trajectories[i] for i in advantages.kept])
    metrics = learner.step()
    assert (metrics.ratio_drift, metrics.ratio_mean) == (0.0, 1.0)
    assert metrics.applied and metrics.rows == 8
    assert any(value.any() for key, value in learner.weights().lora.items() if "lora_B" in key)


def test_its_lora_loads_in_diffusers(qwen_image: Policy, qwen_image_directory: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in qwen_image.trainable().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    trained = sample(qwen_image, qwen_image.encode(TEXTS[:1]) * 2, SEEDS, SamplingPlan(denoise_steps=6)).latents
    save_lora(qwen_image.lora_state(), qwen_image.settings, tmp_path)
    loaded = plain_pipeline(qwen_image_directory, TEXTS[0], "latent", tmp_path)
    torch.testing.assert_close(trained, loaded, atol=1e-5, rtol=0)
    assert (trained - plain_pipeline(qwen_image_directory, TEXTS[0], "latent")).abs().max() > 0.01


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtSigmaPipeline"}))
    with pytest.raises(ValueError, match="must hold one of FluxPipeline, QwenImagePipeline, got a PixArtSigmaPipeline"):
        load_policy(str(tmp_path), FluxSettings())
