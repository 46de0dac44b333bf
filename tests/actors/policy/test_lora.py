from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.policy.flux import FluxPolicy
from actors.policy.lora import read_lora, save_lora
from actors.policy.plan import SamplingPlan
from actors.policy.sampler import sample
from conf.flux import FluxSettings
from tests.support.plain_pipeline import SEEDS, flux_latents
from tests.support.tiny_flux import TEXTS, perturb_lora

DOUBLE_BLOCK_LAYERS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
)
SINGLE_BLOCK_LAYERS = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out")


@pytest.fixture
def all_layers(flux_directory: Path) -> FluxPolicy:
    """A policy whose LoRA adapts every layer."""
    targets = (*DOUBLE_BLOCK_LAYERS, "proj_mlp", "single_transformer_blocks.*.proj_out")
    settings = FluxSettings(model=str(flux_directory), lora_targets=targets)
    return FluxPolicy.from_pretrained(str(flux_directory), settings)


def test_diffusers_loads_an_exported_lora(policy: FluxPolicy, flux_directory: Path, tmp_path: Path) -> None:
    perturb_lora(policy, 0.1)
    trained = sample(policy, policy.encode(TEXTS), SEEDS, SamplingPlan(denoise_steps=6)).latents
    with policy.base():
        base = sample(policy, policy.encode(TEXTS), SEEDS, SamplingPlan(denoise_steps=6)).latents
    save_lora(policy.lora_state(), policy.settings, tmp_path)
    torch.testing.assert_close(trained, flux_latents(flux_directory, tmp_path), atol=1e-5, rtol=0)
    torch.testing.assert_close(base, flux_latents(flux_directory), atol=1e-5, rtol=0)
    assert (trained - base).abs().max() > 0.05
    for key, value in read_lora(tmp_path, policy.settings).items():
        torch.testing.assert_close(value, policy.lora_state()[key])


def test_an_export_has_the_keys_that_comfyui_maps(all_layers: FluxPolicy, tmp_path: Path) -> None:
    """ComfyUI reads a FLUX LoRA as transformer.<diffusers layer>.lora_A|lora_B.weight, for the layers named here."""
    keys = load_file(save_lora(all_layers.lora_state(), all_layers.settings, tmp_path)).keys()
    layers = {f"transformer.transformer_blocks.{block}.{name}" for block in (0, 1) for name in DOUBLE_BLOCK_LAYERS}
    layers |= {
        f"transformer.single_transformer_blocks.{block}.{name}" for block in (0, 1) for name in SINGLE_BLOCK_LAYERS
    }
    assert set(keys) == {f"{layer}.lora_{half}.weight" for layer in layers for half in "AB"}


def test_lora_targets(all_layers: FluxPolicy, flux_directory: Path) -> None:
    adapted = {name.split(".lora_")[0] for name in all_layers.trainable()}
    assert "proj_out" not in adapted and "single_transformer_blocks.0.proj_out" in adapted
    assert len(adapted) == 2 * 12 + 2 * 5
    settings = FluxSettings(lora_targets=("proj_out",))  # without the transformer's own final layer of this name
    policy = FluxPolicy.from_pretrained(str(flux_directory), settings, transformer_only=True)
    adapted = {name.split(".lora_")[0] for name in policy.trainable()}
    assert adapted == {f"single_transformer_blocks.{block}.proj_out" for block in (0, 1)}
    with pytest.raises(ValueError, match=r"'attn\.to_z' matches no linear layer"):
        FluxPolicy.from_pretrained(str(flux_directory), FluxSettings(lora_targets=("attn.to_z",)))


def test_a_new_lora_is_float32_and_changes_nothing(flux_directory: Path) -> None:
    """A ~ N(0, 1/rank) from the seed, B = 0."""
    settings = FluxSettings(model=str(flux_directory), dtype="bfloat16")
    policies = [FluxPolicy.from_pretrained(str(flux_directory), settings, seed=seed) for seed in (0, 0, 1)]
    first, same, other = (policy.trainable() for policy in policies)
    assert policies[0].dtype == torch.bfloat16
    downs = torch.cat([value.flatten() for name, value in first.items() if "lora_A" in name])
    assert downs.std().item() == pytest.approx(1 / settings.lora_rank, rel=0.05)
    for name, value in first.items():
        assert value.dtype == torch.float32 and value.requires_grad
        assert torch.equal(value, same[name]) and (value.any() if "lora_A" in name else not value.any())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_a_lora_with_other_keys_or_shapes_is_refused(policy: FluxPolicy) -> None:
    state = {key: value.numpy() + 1 for key, value in policy.lora_state().items()}
    policy.load_lora(state)
    assert all((value.numpy() == state[key]).all() for key, value in policy.lora_state().items())
    key = next(iter(state))
    with pytest.raises(ValueError, match="1 differ"):
        policy.load_lora({other: value for other, value in state.items() if other != key})
    with pytest.raises(ValueError, match="must have shape"):
        policy.load_lora(state | {key: state[key][:1]})
