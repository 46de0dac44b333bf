from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from actors.policy.flux import FluxPolicy
from actors.policy.lora import save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from conf.flux import FluxSettings
from conf.policy import PolicySettings, SamplingSettings

TEXTS = ["a red circle left of a blue square", "a green triangle above a red square and left of a blue circle"]
SEEDS = [5, 6]
EVERY_LAYER = (
    "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out",
    "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    "proj_mlp", "single_transformer_blocks.*.proj_out",
)  # fmt: skip
NOISY = SamplingPlan(denoise_steps=4, noise_level=0.7, noise_steps=(0, 1, 2), train_steps=(0, 1))


def plain_pipeline(directory: Path, output: str, lora: Path | None = None) -> np.ndarray | torch.Tensor:
    """What diffusers itself draws."""
    pipeline = FluxPipeline.from_pretrained(directory)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora)
    images = pipeline(
        prompt=TEXTS, height=64, width=64, num_inference_steps=6, guidance_scale=3.5, max_sequence_length=24,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS], output_type=output,
    ).images  # fmt: skip
    return images if output == "latent" else np.stack([np.array(image) for image in images])


def test_without_noise_it_is_flux_pipeline(policy: FluxPolicy, flux_directory: Path) -> None:
    drawn = sample(policy, policy.encode(TEXTS), SEEDS, SamplingPlan(denoise_steps=6))
    torch.testing.assert_close(drawn.latents, plain_pipeline(flux_directory, "latent"), atol=1e-5, rtol=0)
    pixels, expected = policy.decode(drawn.latents), plain_pipeline(flux_directory, "pil")
    np.testing.assert_allclose(pixels.astype(int), np.asarray(expected).astype(int), atol=1)
    assert drawn.trajectories == ()


def test_a_sample_does_not_depend_on_its_company(policy: FluxPolicy) -> None:
    """Same seed, same prompt: alone, in a group, or in forwards of two. Only kernels' rounding may differ."""
    one, other = policy.encode(TEXTS)
    group = sample(policy, [one, other, one], [7, 8, 9], NOISY).trajectories
    alone = sample(policy, [one], [9], NOISY).trajectories[0]
    split = sample(
        policy, [one, other, one], [7, 8, 9],
        SamplingPlan(denoise_steps=4, noise_level=0.7, noise_steps=(0, 1, 2), train_steps=(0, 1), max_batch=2),
    ).trajectories  # fmt: skip
    assert torch.equal(alone.latents[0], group[2].latents[0])
    torch.testing.assert_close(alone.latents, group[2].latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(split[2].latents, group[2].latents, atol=1e-5, rtol=0)
    assert [row.batch_size for row in split] == [2, 2, 1]


def test_images_that_share_their_initial_noise(policy: FluxPolicy) -> None:
    """A window in mid-run: one way up to its first step, own ways from there. What a seed draws there is its own."""
    conditioning = policy.encode(TEXTS[:1]) * 3
    window = SamplingPlan(denoise_steps=4, noise_level=0.7, noise_steps=(1, 2), train_steps=(1, 2), images_per_noise=3)
    group = sample(policy, conditioning, [7, 8, 9], window).trajectories
    for other in group[1:]:
        assert torch.equal(other.latents[:2], group[0].latents[:2]) and not torch.equal(other.latents, group[0].latents)
    alone = sample(policy, conditioning[:1], [7], replace(window, images_per_noise=1)).trajectories[0]
    torch.testing.assert_close(alone.latents, group[0].latents, atol=1e-5, rtol=0)
    halves = sample(policy, conditioning, [7, 8, 9], replace(window, max_batch=2)).trajectories
    torch.testing.assert_close(halves[2].latents, group[2].latents, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="pass one conditioning for all"):
        sample(policy, policy.encode(TEXTS) + conditioning[:1], [7, 8, 9], window)
    with pytest.raises(ValueError, match="in multiples of that, got 2"):
        sample(policy, conditioning[:2], SEEDS, window)
    with pytest.raises(ValueError, match="without a noisy step"):
        SamplingPlan(denoise_steps=4, images_per_noise=2)


def test_groups_that_are_sampled_together(policy: FluxPolicy) -> None:
    """Two groups of two in one forward, or in forwards across their border: each begins with a noise of its own, and
    draws what it draws alone. Two groups of one prompt are two groups."""
    one, other = policy.encode(TEXTS)
    window = SamplingPlan(denoise_steps=4, noise_level=0.7, noise_steps=(1, 2), train_steps=(1, 2), images_per_noise=2)
    for prompts in ([one, one, other, other], [one, one, one, one]):
        together = sample(policy, prompts, [5, 6, 7, 8], window).trajectories
        across = sample(policy, prompts, [5, 6, 7, 8], replace(window, max_batch=3)).trajectories
        second = sample(policy, prompts[2:], [7, 8], window).trajectories
        assert [row.shared_prefix for row in together] == [2] * 4 and [row.batch_size for row in across] == [3, 3, 3, 1]
        assert not torch.equal(together[0].latents[0], together[2].latents[0])
        assert torch.equal(together[2].latents[0], together[3].latents[0])
        for alone, row, cut in zip(second, together[2:], across[2:], strict=True):
            torch.testing.assert_close(row.latents, alone.latents, atol=1e-5, rtol=0)
            torch.testing.assert_close(cut.log_probs, alone.log_probs, atol=1e-5, rtol=1e-4)


def test_trajectories_record_what_was_drawn(policy: FluxPolicy) -> None:
    drawn = sample(policy, policy.encode(TEXTS), SEEDS, NOISY, policy_version=3)
    for i, trajectory in enumerate(drawn.trajectories):
        assert trajectory.latents.shape == (5, 16, 32) and trajectory.latents.dtype == torch.float32
        assert torch.equal(trajectory.latents[-1], drawn.latents[i])
        assert (trajectory.log_probs != 0).tolist() == [True, True, True, False]
        assert (trajectory.seed, trajectory.policy_version) == (SEEDS[i], 3)
        assert torch.equal(trajectory.sigmas, policy.sigmas(4))


def test_one_conditioning_a_seed(policy: FluxPolicy) -> None:
    with pytest.raises(ValueError, match="got 1 and 2 seeds"):
        sample(policy, policy.encode(TEXTS[:1]), SEEDS, NOISY)


def test_the_plan_of_a_policy() -> None:
    plan = SamplingPlan.for_training(
        PolicySettings(sampling=SamplingSettings(denoise_steps=6, window=0, train_steps=3))
    )
    assert (plan.noise_steps, plan.train_steps) == ((0, 1, 2, 3, 4), (0, 1, 2))
    original = SamplingPlan.for_training(
        PolicySettings(sampling=SamplingSettings(last_step_deterministic=False, window=0, train_steps=0))
    )
    assert original.noise_steps == original.train_steps == (0, 1, 2, 3, 4, 5)
    cps = SamplingPlan.for_training(
        PolicySettings(
            sampling=SamplingSettings(transition="cps", last_step_deterministic=False, window=0, train_steps=0)
        )
    )
    assert cps.train_steps == (0, 1, 2, 3, 4)
    with pytest.raises(ValueError, match="the last CPS step draws no noise"):
        SamplingPlan(denoise_steps=2, transition="cps", noise_level=0.5, noise_steps=(0, 1), train_steps=(1,))
    with pytest.raises(ValueError, match="trained steps must draw noise"):
        SamplingPlan(denoise_steps=2, noise_level=0.5, noise_steps=(0,), train_steps=(1,))


def test_windows_of_a_policy() -> None:
    """Five noisy steps, a window of two: it stays, slides and comes round, or is drawn anew from the run's seed."""

    def windows(position: str) -> list[tuple[int, ...]]:
        settings = PolicySettings(sampling=SamplingSettings(window=2, window_position=position, window_stride=3))
        plans = [SamplingPlan.for_training(settings, iteration) for iteration in range(15)]
        assert all(plan.noise_steps == plan.train_steps for plan in plans)
        return [plan.train_steps for plan in plans]

    assert set(windows("first")) == {(0, 1)}
    assert windows("sliding")[::3] == [(0, 1), (1, 2), (2, 3), (3, 4), (0, 1)]
    assert windows("sliding")[0] == windows("sliding")[2]
    assert set(windows("random")) == {(0, 1), (1, 2), (2, 3), (3, 4)} and windows("random") == windows("random")
    with pytest.raises(ValueError, match=r"policy\.sampling\.window must lie between 0 and the 5 noisy steps, got 6"):
        PolicySettings(sampling=SamplingSettings(window=6))
    with pytest.raises(
        ValueError, match=r"policy\.sampling\.train_steps must lie between 0 and the 5 noisy steps, got 6"
    ):
        PolicySettings(sampling=SamplingSettings(window=0, train_steps=6))


def sized(directory: Path, pixels: int, decoding: str) -> FluxPolicy:
    settings = FluxSettings(model=str(directory), height=pixels, width=pixels, vae_decoding=decoding)
    return FluxPolicy.from_pretrained(str(directory), settings)


def test_decoding_in_slices_and_tiles(flux_directory: Path) -> None:
    """Picture by picture the same pictures; of a picture twice a tile's size the first tile is what it is alone."""
    latents = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    whole = sized(flux_directory, 128, "batch").decode(latents).astype(int)
    sliced = sized(flux_directory, 128, "sliced").decode(latents).astype(int)
    np.testing.assert_allclose(sliced, whole, atol=1)
    tiled = sized(flux_directory, 128, "tiled").decode(latents).astype(int)
    corner = latents.unflatten(1, (8, 8))[:, :4, :4].flatten(1, 2)
    alone = sized(flux_directory, 64, "batch").decode(corner).astype(int)
    np.testing.assert_allclose(tiled[:, :48, :48], alone[:, :48, :48], atol=1)  # the last quarter blends into the next
    assert np.abs(tiled - whole).max() > 8


@pytest.mark.slow
def test_a_compiled_policy_predicts_and_learns_the_same(policy: FluxPolicy, flux_directory: Path) -> None:
    """Velocity by base and LoRA, and the LoRA's gradient; minutes of compiling on a busy machine."""
    compiled = FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(model=str(flux_directory), compile=True))
    latents, s = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.8)
    measured = []
    for one in (policy, compiled):
        generator = torch.Generator().manual_seed(0)
        for parameter in one.trainable().values():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
        rows = one.batch_conditioning(one.encode(TEXTS))
        velocity = one.velocity(latents, s, rows)
        velocity.square().mean().backward()
        with torch.no_grad(), one.base():
            base = one.velocity(latents, s, rows)
        gradients = [parameter.grad for parameter in one.trainable().values() if parameter.grad is not None]
        measured.append([velocity.detach(), base, *gradients])
    assert compiled.transformer.transformer_blocks[0]._compiled_call_impl is not None
    assert (measured[0][0] - measured[0][1]).abs().max() > 0.01  # the LoRA does something
    for plain, other in zip(*measured, strict=True):
        torch.testing.assert_close(plain, other, atol=1e-5, rtol=1e-3)


def test_exports_what_diffusers_loads(policy: FluxPolicy, flux_directory: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.trainable().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    trained = sample(policy, policy.encode(TEXTS), SEEDS, SamplingPlan(denoise_steps=6)).latents
    with policy.base():
        base = sample(policy, policy.encode(TEXTS), SEEDS, SamplingPlan(denoise_steps=6)).latents
    save_lora(policy.lora_state(), policy.settings, tmp_path)
    loaded = plain_pipeline(flux_directory, "latent", lora=tmp_path)
    torch.testing.assert_close(trained, loaded, atol=1e-5, rtol=0)
    torch.testing.assert_close(base, plain_pipeline(flux_directory, "latent"), atol=1e-5, rtol=0)
    assert (trained - base).abs().max() > 0.05


@pytest.fixture
def whole(flux_directory: Path) -> FluxPolicy:
    """A policy whose LoRA reaches every layer."""
    settings = FluxSettings(model=str(flux_directory), lora_targets=EVERY_LAYER)
    return FluxPolicy.from_pretrained(str(flux_directory), settings)


def test_an_export_has_the_keys_that_comfyui_maps(whole: FluxPolicy, tmp_path: Path) -> None:
    """ComfyUI reads a FLUX LoRA as transformer.<diffusers layer>.lora_A|lora_B.weight, of the layers named here."""
    double = {f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj",
                                          "to_add_out")} | {f"{ff}.{layer}" for ff in ("ff", "ff_context")
                                                            for layer in ("net.0.proj", "net.2")}  # fmt: skip
    single = {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out"}
    keys = load_file(save_lora(whole.lora_state(), whole.settings, tmp_path)).keys()
    layers = {f"transformer.transformer_blocks.{block}.{name}" for block in (0, 1) for name in double}
    layers |= {f"transformer.single_transformer_blocks.{block}.{name}" for block in (0, 1) for name in single}
    assert set(keys) == {f"{layer}.lora_{half}.weight" for layer in layers for half in "AB"}


def test_lora_targets(whole: FluxPolicy, flux_directory: Path) -> None:
    adapted = {name.split(".lora_")[0] for name in whole.trainable()}
    assert "proj_out" not in adapted and "single_transformer_blocks.0.proj_out" in adapted
    assert len(adapted) == 2 * 12 + 2 * 5
    with pytest.raises(ValueError, match=r"'attn\.to_z' matches no linear layer"):
        FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(lora_targets=("attn.to_z",)))


def test_a_lora_travels_whole_or_not_at_all(policy: FluxPolicy) -> None:
    state = {key: value.numpy() + 1 for key, value in policy.lora_state().items()}
    policy.load_lora(state)
    assert all(np.array_equal(value.numpy(), state[key]) for key, value in policy.lora_state().items())
    some = next(iter(state))
    with pytest.raises(ValueError, match="1 differ"):
        policy.load_lora({key: value for key, value in state.items() if key != some})
    with pytest.raises(ValueError, match="must have shape"):
        policy.load_lora(state | {some: state[some][:1]})


def test_a_policy_without_encoders_has_the_same_flow(policy: FluxPolicy, flux_directory: Path) -> None:
    learner = FluxPolicy.from_pretrained(str(flux_directory), policy.settings, transformer_only=True)
    assert learner.pipeline.vae is None and learner.pipeline.text_encoder is None
    rows = policy.batch_conditioning(policy.encode(TEXTS))
    x, s = torch.randn(2, 16, 32), torch.tensor([0.9, 0.5])
    with torch.no_grad():
        assert torch.equal(policy.velocity(x, s, rows), learner.velocity(x, s, rows))
